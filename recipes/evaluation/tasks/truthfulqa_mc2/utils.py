"""The six answered questions in front, and how much probability the right answers get."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import apply_template


def with_examples(row: dict[str, str]) -> str:
    """The prompt of TruthfulQA (Lin et al. 2022)."""
    return apply_template(_prompt(), row)


@cache
def _prompt() -> str:
    file = Path(lm_eval.__file__).parent / "tasks" / "truthfulqa" / "truthfulqa_mc1.yaml"
    return str(load_yaml(file, resolve_func=False)["doc_to_text"])


def share_of_the_right(
    row: dict[str, Any], results: Sequence[tuple[float, bool]]
) -> dict[str, float]:
    """``acc``: the probability of the right choices over that of all choices."""
    best = max(loglikelihood for loglikelihood, _ in results)
    weights = [math.exp(loglikelihood - best) for loglikelihood, _ in results]
    right = sum(w for w, label in zip(weights, row["labels"], strict=True) if label)
    return {"acc": right / sum(weights)}
