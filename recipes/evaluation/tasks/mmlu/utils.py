"""Five examples of its subject in front of every question."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

SHOTS = 5


def with_examples(row: dict[str, Any]) -> str:
    """The prompt of MMLU: what it is about, the examples with their answers, the question."""
    subject = row["subject"]
    about = f"multiple choice questions (with answers) about {subject.replace('_', ' ')}."
    shown = [f"{_question(e)} {'ABCD'[e['gold']]}" for e in _examples()[subject][:SHOTS]]
    return "\n\n".join([f"The following are {about}", *shown, _question(row)])


def _question(row: dict[str, Any]) -> str:
    choices = [f"{letter}. {text}" for letter, text in zip("ABCD", row["choices"], strict=True)]
    return "\n".join([row["question"].strip(), *choices, "Answer:"])


@cache
def _examples() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line in Path(__file__).with_name("fewshot.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        found.setdefault(row["subject"], []).append(row)
    return found
