"""Rows of generation tasks, in the form described at the top of their task.yaml."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from contents import Content, Row, measured
from raw import read_json, read_lines, read_table

SHOWN = 8  # solved problems of GSM8K's training split

GAUNTLET = ("scripts", "eval", "local_data")
TRUTHFUL = ("evaluate_oc", "block_attention", "truthful_qa", "multiple_choice")


def gauntlet(path: str, row: Callable[[Row], Row]) -> Callable[[Path], Content]:
    """Return a reader of a file of the Eval Gauntlet that converts each row."""
    return lambda folder: measured(map(row, read_lines(folder.joinpath(*GAUNTLET, path))))


def question(row: Row) -> Row:
    query = row["query"].removeprefix("Question: ").strip()
    return {"query": query, "choices": row["choices"], "gold": row["gold"]}


def premise(row: Row) -> Row:
    """Convert a row of COPA: no comma before "because" and "therefore"."""
    start, _, connector = row["query"].rpartition(", ")
    return {"query": f"{start} {connector}", "choices": row["choices"], "gold": row["gold"]}


def yes_or_no(row: Row) -> Row:
    passage, _, asked = row["query"].rpartition("\nQuestion: ")
    passage = passage.removeprefix("Passage: ")
    return {"passage": passage, "question": asked, "gold": row["gold"]}


def lettered(row: Row) -> Row:
    """Convert a row of CommonsenseQA: the choices are in the text of the question."""
    asked, _, listed = row["query"].rpartition("\nChoices:\n")
    choices = re.findall(r"^[A-E]\. (.*)$", listed, flags=re.MULTILINE)
    asked = asked.removeprefix("Question: ")
    return {"question": asked, "choices": choices, "gold": row["gold"]}


def blank(row: Row) -> Row:
    contexts = row["context_options"]
    return {"contexts": contexts, "continuation": row["continuation"], "gold": row["gold"]}


def last_word(row: Row) -> Row:
    return {"context": row["context"].strip(), "continuation": row["continuation"].strip()}


def trivia(row: Row) -> Row:
    asked = row["context"].removeprefix("Question: ").removesuffix("\nAnswer:")
    return {"question": asked, "answers": list(dict.fromkeys([row["answer"], *row["aliases"]]))}


def instructions(folder: Path) -> Content:
    place = folder / "evaluate_oc" / "block_attention"
    return measured(read_lines(place / "ifeval_input_data.jsonl"))


def mathematics(folder: Path) -> Content:
    place = folder / "grade_school_math" / "data"
    shown = read_lines(place / "train.jsonl")[:SHOWN]
    return {**measured(read_lines(place / "test.jsonl")), "fewshot.jsonl": list(shown)}


def subjects(folder: Path) -> Content:
    """Return MMLU: all subjects, with examples of each."""
    place = folder / "data" / "mmlu"
    return {**measured(_choices(place, "test")), "fewshot.jsonl": list(_choices(place, "dev"))}


def hard_tasks(folder: Path) -> Content:
    """Return BIG-bench hard: all subsets, with worked examples of each."""
    asked: list[Row] = []
    prompts: list[Row] = []
    for path in sorted((folder / "bbh").glob("*.json")):
        asked += [{"subset": path.stem, **example} for example in read_json(path)["examples"]]
        text = (folder / "cot-prompts" / f"{path.stem}.txt").read_text(encoding="utf-8")
        prompt = text.partition("-----\n")[2] or text
        prompts.append({"subset": path.stem, "prompt": prompt.strip("\n")})
    return {**measured(asked), "prompts.jsonl": prompts}


def truthful(folder: Path, *, several: bool) -> Content:
    """Return TruthfulQA with one correct choice, or with several."""
    from pyarrow import parquet  # only this set needs it

    path = folder.joinpath(*TRUTHFUL, "validation-00000-of-00001.parquet")
    rows = parquet.ParquetFile(path).read().to_pylist()
    return measured(_truthful(row, several=several) for row in rows)


def _truthful(row: dict[str, Any], *, several: bool) -> Row:
    targets = row["mc2_targets" if several else "mc1_targets"]
    choices = {"question": row["question"], "choices": targets["choices"]}
    if several:
        return {**choices, "labels": targets["labels"]}
    return {**choices, "gold": targets["labels"].index(1)}


def _choices(place: Path, split: str) -> Iterator[Row]:
    for path in sorted((place / split).glob(f"*_{split}.csv")):
        for row in read_table(path):
            yield {
                "subject": path.stem.removesuffix(f"_{split}"),
                "question": row["question"],
                "choices": [row[f"choice{number}"] for number in range(4)],
                "gold": int(row["answer"]),
            }
