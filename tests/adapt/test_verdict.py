"""The verdict on an adapter, from results with known differences."""

from __future__ import annotations

import pytest

from gritlm.adapt import report_tasks
from gritlm.adapt.verdict import judge
from gritlm.evaluation.outcome import Outcome, Report
from gritlm.evaluation.results import TaskResult


def result(task: str, right: int, of: int = 200) -> TaskResult:
    items = (1.0,) * right + (0.0,) * (of - right)
    return TaskResult(
        task, "embedding", "Retrieval", "ndcg_at_10", 100 * right / of, of, 1.0, items
    )


def report(before: dict[str, int], after: dict[str, int]) -> Report:
    models = [
        Outcome(name, "GritLM", "", {}, tuple(result(task, n) for task, n in scores.items()))
        for name, scores in (("before", before), ("adapted", after))
    ]
    return Report(tuple(models), "adapt", None)


WRITTEN, REAL = report_tasks.WRITTEN, report_tasks.REAL


@pytest.mark.parametrize(
    ("before", "after", "decision", "sentence"),
    [
        ({WRITTEN: 100}, {WRITTEN: 130}, "use", "better at held-out-questions 50.0 -> 65.0"),
        ({WRITTEN: 100}, {WRITTEN: 100}, "undecided", "no difference at held-out-questions"),
        ({WRITTEN: 130}, {WRITTEN: 100}, "do not use", "worse at held-out-questions"),
        (
            {WRITTEN: 100, "Banking77": 150},
            {WRITTEN: 130, "Banking77": 120},
            "do not use",
            "worse at Banking77 75.0 -> 60.0",
        ),
        ({WRITTEN: 100, REAL: 100}, {WRITTEN: 130, REAL: 100}, "undecided", f"at {REAL}"),
        ({"Banking77": 100}, {"Banking77": 130}, "undecided", "too few questions"),
        ({WRITTEN: 100, REAL: 100}, {WRITTEN: 100, REAL: 120}, "use", f"better at {REAL}"),
    ],
)
def test_the_questions_nearest_to_use_decide_and_harm_forbids(before, after, decision, sentence):
    verdict = judge(report(before, after))
    assert verdict.decision == decision
    assert verdict.sentence.startswith(decision)
    assert sentence in verdict.sentence


def test_a_loss_of_less_than_a_point_is_no_harm():
    verdict = judge(report({WRITTEN: 100, "x": 199}, {WRITTEN: 130, "x": 198}))
    assert verdict.decision == "use"
