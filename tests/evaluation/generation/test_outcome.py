from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from gritlm.errors import InputError
from gritlm.evaluation.generation import outcome


@dataclass
class FakeTask:
    task_name: str
    metadata: dict[str, Any] = field(default_factory=dict)
    OUTPUT_TYPE: str = "multiple_choice"

    def get_config(self, key: str) -> Any:
        return getattr(self, key)


def rows(metric: str, *values: Any, **also: Any) -> list[dict[str, Any]]:
    return [{"doc_id": n, "filter": "none", metric: v, **also} for n, v in enumerate(values)]


def made(tasks, results, samples):
    found = {"results": results, "samples": samples}
    return outcome.result("all", tasks, found, seconds=1.0, harness="lm-eval")


def test_tasks_of_a_group_count_by_their_rows():
    found = made(
        [FakeTask("a"), FakeTask("b")],
        {"a": {"acc,none": 1.0, "acc_stderr,none": "N/A"}, "b": {"acc,none": 0.25}},
        {"a": rows("acc", 1.0), "b": rows("acc", 0.0, 0.0, 1.0, 0.0)},
    )
    assert (found.score, found.count) == (pytest.approx(40.0), 5)
    assert found.items == (1.0, 0.0, 0.0, 1.0, 0.0)


def test_a_group_of_different_figures_is_refused():
    with pytest.raises(
        InputError, match=r"all is a group .*\(acc, f1\); name the tasks one by one"
    ):
        made(
            [FakeTask("a"), FakeTask("b")],
            {"a": {"acc,none": 1.0}, "b": {"f1,none": 1.0}},
            {"a": rows("acc", 1.0), "b": rows("f1", (1, 1))},
        )


def test_perplexities_are_no_percentages_and_have_no_figure_of_a_row():
    found = made(
        [FakeTask("a", OUTPUT_TYPE="loglikelihood_rolling")],
        {"a": {"bits_per_byte,none": 0.9, "word_perplexity,none": 12.0}},
        {"a": rows("bits_per_byte", (-3.0, 5), word_perplexity=(-3.0, 1))},
    )
    assert (found.metric, found.score, found.items) == ("bits_per_byte", 0.9, None)
    assert found.details == {"word_perplexity": 12.0}


def test_a_main_figure_that_the_task_does_not_have_is_refused():
    with pytest.raises(InputError, match="metadata says main: f1; the task has acc"):
        made([FakeTask("a", {"main": "f1"})], {"a": {"acc,none": 1.0}}, {"a": rows("acc", 1.0)})


def test_rows_come_in_their_order_whatever_order_they_were_measured_in():
    samples = rows("acc", 1.0, 0.0, 0.0)
    found = made([FakeTask("a")], {"a": {"acc,none": 1 / 3}}, {"a": samples[::-1]})
    assert found.items == (1.0, 0.0, 0.0)
