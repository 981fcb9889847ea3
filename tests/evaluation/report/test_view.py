"""What the report shows: rows, means, groups, reasons."""

from __future__ import annotations

from gritlm.evaluation.outcome import Outcome, Report, SkippedTask
from gritlm.evaluation.report import view, words
from gritlm.evaluation.results import TaskResult
from tests.evaluation import made


def report(*models: list[TaskResult], skipped: tuple[SkippedTask, ...] = ()) -> Report:
    outcomes = (
        Outcome(f"m{i}", "GritLM", "digest", {}, tuple(results), skipped if i == 0 else ())
        for i, results in enumerate(models)
    )
    return Report(tuple(outcomes), "quick", None)


def test_a_mean_takes_the_tasks_that_all_able_models_have():
    found = view.sections(
        report(
            [made.result("a", score=80.0), made.result("b", score=60.0)],
            [made.result("a", score=50.0)],
            [made.result("x", half="generation", metric="acc")],  # does not embed at all
        )
    )
    embedding = found[0]
    assert embedding.headline.count == 1
    assert [cell.score and cell.score.value for cell in embedding.headline.cells] == [80, 50, None]
    assert embedding.headline.cells[1].difference.value == -30
    assert [row.name for row in embedding.rows] == ["a", "b"]
    assert embedding.rows[1].cells[1].score is None


def test_kinds_of_several_tasks_get_a_mean_of_their_own():
    results = [made.result("a"), made.result("b"), made.result("s", kind="STS")]
    (section,) = view.sections(report(results))
    assert [(row.name, row.count) for row in section.groups] == [("Retrieval", 2)]


def test_question_answering_is_grouped_by_setting_and_shown_by_fresh():
    results = [
        made.result(f"{task} ({setting})", half="rag", kind="QA", score=score)
        for task, more in (("NQ", 0), ("KV", 20))
        for setting, score in (("no context", 10.0 + more), ("fresh", 50.0 + more))
    ]
    (section,) = view.sections(report(results))
    assert [(row.name, row.cells[0].score.value) for row in section.groups] == [
        ("no context", 20),
        ("fresh", 60),
    ]
    assert section.headline.name == "fresh"


def test_perplexities_stay_out_of_means():
    results = [
        made.result("a", half="generation", metric="acc", score=40.0),
        made.result("w", half="generation", metric="word_perplexity", score=900.0),
    ]
    (section,) = view.sections(report(results))
    assert section.headline.cells[0].score.value == 40
    assert [(row.share, row.less) for row in section.rows] == [(True, False), (False, True)]
    assert section.headline.left_out == ("w",)
    assert words.left_out(section) == ["Not in the mean: w."]


def test_tasks_that_a_model_lacks_are_named_as_left_out_once():
    (section,) = view.sections(
        report(
            [made.result("a"), made.result("b"), made.result("s", kind="STS")],
            [made.result("a"), made.result("s", kind="STS")],
        )
    )
    assert section.headline.left_out == ("b",)
    assert words.left_out(section) == ["Not in the mean: b."]


def test_times_of_an_earlier_run_are_told():
    results = (made.result("a"), made.result("b"))
    outcome = Outcome("m", "GritLM", "digest", {}, results, known=("b",))
    (section,) = view.sections(Report((outcome,), "quick", None))
    assert [row.cells[0].known for row in section.rows] == [False, True]


def test_tasks_skipped_for_one_reason_stand_together():
    skipped = (
        SkippedTask("m0", "rag", "a", "it only embeds"),
        SkippedTask("m0", "rag", "b", "it only embeds"),
        SkippedTask("m0", "embedding", "c", "no network"),
    )
    found = view.reasons(report([], skipped=skipped))
    assert [each.tasks for each in found] == [("a", "b"), ("c",)]


def test_the_first_model_has_no_difference_to_itself():
    (section,) = view.sections(report([made.result("a")], [made.result("a")]))
    first, second = section.rows[0].cells
    assert first.difference is None
    assert second.difference.value == 0
