from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from gritlm.errors import InputError, ModelError
from gritlm.evaluation.generation import lm_eval_results


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
    return lm_eval_results.result("all", tasks, found, seconds=1.0, harness="lm-eval")


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


@pytest.mark.parametrize(
    ("figures", "main"),
    [
        ({"perplexity": 12.0, "acc": 0.5}, "acc"),
        ({"acc": 0.5, "acc_norm": 0.25}, "acc_norm"),
        ({"f1": 0.5, "exact_match": 0.25}, "exact_match"),
        ({"perplexity": 12.0, "strict": 0.25}, "strict"),
        ({"perplexity": 12.0, "likelihood": -1.5}, "perplexity"),
    ],
)
def test_the_main_figure_is_the_best_known_one_then_the_first_share(figures, main):
    found = made(
        [FakeTask("a")],
        {"a": {f"{name},none": v for name, v in figures.items()}},
        {"a": rows(main, 0.5)},
    )
    assert found.metric == main


def test_what_is_in_percent_hangs_on_the_name_and_not_on_the_value():
    found = made(
        [FakeTask("a")],
        {
            "a": {
                "acc,none": 0.5,
                "perplexity,none": 0.75,
                "bleu,none": 0.5,
                "length,none": 12.0,
                "f1,none": float("nan"),
            }
        },
        {"a": rows("acc", 0.5)},
    )
    assert found.score == 50
    assert found.details == {"perplexity": 0.75, "bleu": 0.5}


@pytest.mark.parametrize(
    ("metric", "value"), [("acc", float("nan")), ("perplexity", float("inf")), ("length", 12.0)]
)
def test_a_main_figure_that_cannot_be_right_is_refused(metric, value):
    with pytest.raises(ModelError, match=rf"all: {metric} is .*expected a number"):
        made([FakeTask("a")], {"a": {f"{metric},none": value}}, {"a": rows(metric, value)})


def test_a_figure_of_which_less_is_better_is_called_so():
    found = {
        "results": {"a": {"toxicity,none": 0.25}},
        "samples": {"a": rows("toxicity", 0.5, 0.0)},
        "higher_is_better": {"a": {"toxicity": False}},
    }
    result = lm_eval_results.result("a", [FakeTask("a")], found, seconds=1.0, harness="lm-eval")
    assert (result.metric, result.score) == ("toxicity (less is better)", 25)
    assert result.items == (0.5, 0.0)
