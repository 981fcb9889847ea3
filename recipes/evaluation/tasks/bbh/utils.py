"""Prompts of BIG-bench hard with the worked examples of the subset."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path


def with_examples(row: dict[str, str]) -> str:
    """Return the prompt of the subset, the question, and the start of a reasoned answer."""
    return f"{_prompts()[row['subset']]}\n\nQ: {row['input']}\nA: Let's think step by step.\n"


@cache
def _prompts() -> dict[str, str]:
    lines = Path(__file__).with_name("prompts.jsonl").read_text("utf-8").splitlines()
    return {row["subset"]: row["prompt"] for row in map(json.loads, lines)}
