"""A report with all there is: both halves, two models, something skipped, odd names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gritlm.evaluation import environment
from gritlm.evaluation.outcome import Outcome, Report, SkippedTask
from gritlm.evaluation.tasks import discovery
from tests.evaluation import made

OTHER = "a|b <i>"


@pytest.fixture
def report(tmp_path: Path) -> Report:
    task = replace(discovery.local(made.sts(tmp_path / "pairs"))[0], licence="CC BY <4.0>")
    ours = (
        made.result("pairs", kind="STS", score=81.25),
        made.result("mmlu", half="generation", metric="acc", score=42.5),
        made.result("wiki", half="generation", metric="word_perplexity", score=23.4567, items=None),
        made.result("NQ (fresh)", half="rag", kind="QA", metric="match"),
    )
    theirs = (made.result("pairs", kind="STS", score=70.0, items=(0.0, 0.0, 0.0, 1.0)),)
    skipped = (SkippedTask(OTHER, "generation", "mmlu", "it only embeds"),)
    return Report(
        (
            Outcome("ours", "GritLM", "0123456789abcdef", {"parameters": 2_500_000}, ours),
            Outcome(OTHER, "sentence-transformers", "fedcba", {"dtype": "auto"}, theirs, skipped),
        ),
        "quick",
        50,
        environment.about("gritlm eval ours"),
        (task,),
    )
