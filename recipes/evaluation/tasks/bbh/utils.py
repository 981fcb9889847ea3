"""The worked examples of its subset in front of every question."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path


def with_examples(row: dict[str, str]) -> str:
    """The prompt of its subset, the question, and the beginning of a reasoned answer."""
    return f"{_prompts()[row['subset']]}\n\nQ: {row['input']}\nA: Let's think step by step.\n"


@cache
def _prompts() -> dict[str, str]:
    lines = Path(__file__).with_name("prompts.jsonl").read_text("utf-8").splitlines()
    return {row["subset"]: row["prompt"] for row in map(json.loads, lines)}
