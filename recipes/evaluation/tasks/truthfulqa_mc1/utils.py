"""The six answered questions that stand in front of every question, as lm-eval has them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

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
