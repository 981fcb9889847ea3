"""The words of the command line become a list of tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from gritlm.errors import InputError
from gritlm.evaluation import kinds
from gritlm.evaluation.tasks import suites
from tests.evaluation import made


def test_the_quick_suite_is_the_samples_of_the_package():
    plan = suites.make_plan("quick")
    assert {each.kind for each in plan.tasks} == {"embedding", "generation", "rag"}
    assert all(suites.SAMPLES in each.task.folder.parents for each in plan.tasks)
    assert plan.limit is None


def test_the_quick_suite_on_a_folder_takes_its_first_rows(tmp_path: Path):
    made.data(tmp_path)
    assert suites.make_plan("quick", data=tmp_path).limit == suites.QUICK_ROWS
    assert suites.make_plan("quick", data=tmp_path, limit=3).limit == 3
    assert suites.make_plan("full", data=tmp_path).limit is None


@pytest.mark.parametrize(
    ("suite", "names"),
    [
        ("embedding", ["pairs"]),
        ("generation", ["endings"]),
        ("rag", ["answers"]),
        ("full", ["pairs", "endings", "answers"]),
    ],
)
def test_a_suite_on_a_folder_takes_its_halves(tmp_path: Path, suite, names):
    plan = suites.make_plan(suite, data=made.data(tmp_path))
    assert [each.name for each in plan.tasks] == names


def test_without_a_folder_a_suite_takes_the_hubs(tmp_path: Path):
    assert all(each.task == each.name for each in suites.make_plan("embedding").tasks)
    full = {each.kind for each in suites.make_plan("full").tasks}
    assert full == {"embedding", "generation", "rag"}


@pytest.mark.slow
def test_the_harnesses_know_the_tasks_of_the_suites():
    known = {half: set(names()) for half, names in kinds.hubs().items()}
    for half, name in suites.SUITES["full"].hub:
        assert name in known[half]


def test_names_stand_in_for_a_suite(tmp_path: Path):
    hubs = {"embedding": lambda: ["SciFact"]}
    plan = suites.make_plan(tasks=["SciFact", "pairs"], data=made.data(tmp_path), hubs=hubs)
    assert plan.suite == "tasks"
    assert [each.name for each in plan.tasks] == ["SciFact", "pairs"]
    assert plan.limit is None


def test_what_is_unknown_or_empty_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="did you mean 'quick'"):
        suites.make_plan("quik")
    made.sts(tmp_path / "pairs")
    with pytest.raises(InputError, match="no task of rag in this folder"):
        suites.make_plan("rag", data=tmp_path)
