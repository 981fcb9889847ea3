"""Rows of T0's prompts: the values of a template without the template.

Only sets with an open licence are used: AdversarialQA (CC BY-SA), Quoref (CC BY), DuoRC (MIT)
and PAWS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from texts import one_line, untokenised

END = "<|endoftext|>"

# One template of a dataset is enough: the others rephrase the same rows.
READING = {
    "adversarial_qa_dbert_based_on": r"Question: (?P<question>.+?)\nContext: (?P<text>.+)",
    "adversarial_qa_dbidaf_based_on": r"Question: (?P<question>.+?)\nContext: (?P<text>.+)",
    "adversarial_qa_droberta_based_on": r"Question: (?P<question>.+?)\nContext: (?P<text>.+)",
    "quoref_Answer_Question_Given_Context": (
        r"Given the following context:\s+(?P<text>.+?)\s+answer the following question:\s+"
        r"(?P<question>.+)"
    ),
}
PLOTS = {
    "duorc_SelfRC_extract_answer": (
        r"Question: (?P<question>.+?)\nTitle: (?P<title>.+?)\nMovie plot: (?P<text>.+)"
    ),
}
PARAPHRASES = {"paws_labeled_final_paraphrase_task": r"Paraphrase the sentence: (?P<text>.+)"}


def template(folder: Path, name: str) -> Iterator[tuple[str, str]]:
    """Yield prompt and completion of the rows of a template, if both are not empty."""
    place = folder / "data" / "finetuning" / "t0_train_50k" / "data_per_template"
    for line in (place / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        prompt = row["prompt"].strip()
        completion = row["completion"].removesuffix(END).strip()
        if prompt and completion:
            yield prompt, completion


def reading(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield question, text and answer of rows whose text has the answer."""
    seen: set[tuple[str, str]] = set()
    for name, form in READING.items():
        for prompt, completion in template(folder, name):
            if found := re.search(form, prompt, flags=re.DOTALL):
                question = one_line(found["question"])
                text = one_line(found["text"])
                answer = one_line(completion)
                if answer in text and (question, answer) not in seen:
                    seen.add((question, answer))
                    yield question[:1].upper() + question[1:], text, answer


def plots(folder: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield question, title, text and answer of questions on film plots that have the answer."""
    for name, form in PLOTS.items():
        for prompt, completion in template(folder, name):
            if found := re.search(form, prompt, flags=re.DOTALL):
                title, text, question = (one_line(found[k]) for k in ("title", "text", "question"))
                if (answer := one_line(completion)) in text:
                    yield question, title, text, answer


def paraphrases(folder: Path) -> Iterator[tuple[str, str]]:
    for name, form in PARAPHRASES.items():
        for prompt, completion in template(folder, name):
            if found := re.search(form, prompt, flags=re.DOTALL):
                yield untokenised(found["text"]), untokenised(completion)
