"""Generative rows from instruction and question-answering datasets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import t0
from rows import Row, chat
from texts import number

MOST_PROBLEMS = 1500
MOST_WORDS = 150  # of a prompt of T0

# Datasets with a free licence (CC BY, CC BY-SA, MIT), one template each.
SHORT_ANSWERS = (
    "common_gen_Put_together",
    "commonsense_qa_question_answering",
    "cosmos_qa_context_description_question_text",
    "dbpedia_14_given_list_what_category_does_the_paragraph_belong_to",
    "qasc_qa_with_separated_facts_1",
    "quarel_heres_a_story",
    "quartz_use_info_from_paragraph_question",
    "ropes_plain_no_background",
)


def seeds(folder: Path) -> Iterator[Row]:
    """Yield the human-written seed tasks of Self-Instruct."""
    yield from _tasks(folder / "seed_tasks.jsonl")


def user_tasks(folder: Path) -> Iterator[Row]:
    yield from _tasks(folder / "human_eval" / "user_oriented_instructions.jsonl")


def _tasks(path: Path) -> Iterator[Row]:
    for line in path.read_text(encoding="utf-8").splitlines():
        task = json.loads(line)
        for instance in task["instances"]:
            yield from _instruction(task["instruction"], instance["input"], instance["output"])


def alpaca(folder: Path) -> Iterator[Row]:
    text = (folder / "data" / "alpaca_en_demo.json").read_text(encoding="utf-8")
    for row in json.loads(text):
        yield from _instruction(row["instruction"], row["input"], row["output"])


def dolly(folder: Path) -> Iterator[Row]:
    """Yield rows of Dolly without the frame of the Alpaca prompt."""
    path = folder / "scripts" / "data_prep" / "dolly_hhrlhf_train_small.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        instruction = row["prompt"].partition("### Instruction:\n")[2]
        yield from _instruction(instruction.rpartition("### Response:")[0], "", row["response"])


def mathematics(folder: Path) -> Iterator[Row]:
    """Yield a part of the training split."""
    path = folder / "grade_school_math" / "data" / "train.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    for line in sorted(lines, key=number)[:MOST_PROBLEMS]:
        row = json.loads(line)
        yield chat(row["question"], row["answer"])


def short_answers(folder: Path) -> Iterator[Row]:
    """Yield T0 prompts that fit in a short sample."""
    for name in SHORT_ANSWERS:
        for prompt, completion in t0.template(folder, name):
            if len(prompt.split()) <= MOST_WORDS:
                yield chat(prompt, completion)


def _instruction(instruction: str, given: str, answer: str) -> Iterator[Row]:
    given = "" if "noinput" in given.lower() else given
    user = "\n\n".join(part.strip() for part in (instruction, given) if part.strip())
    if user and answer.strip():
        yield chat(user, answer.strip())
