from __future__ import annotations

import pytest

from gritlm.errors import InputError
from gritlm.evaluation.generation import loading
from gritlm.evaluation.tasks.task import Task

from .conftest import CHOICE, COLOURS

WRONG_FILES = {
    "an empty file": ("", r"test\.jsonl: has no rows"),
    "broken JSON": ('{"query": "a"}\n{"query": \n', r"test\.jsonl:2: broken JSON"),
    "a list": ('["query"]\n', r"test\.jsonl:1: list; expected one JSON object"),
    "another column": (
        '{"query": "a", "gold": 0}\n\n{"query": "a", "god": 0}\n',
        r"test\.jsonl:3: other columns than in the first row \(god, gold\)",
    ),
    "two types": (
        '{"query": "a", "gold": 0}\n{"query": "a", "gold": ["b"]}\n',
        r"test\.jsonl: the rows differ in the type of a column",
    ),
}
WRONG_TASKS = {
    "no YAML": ("dataset_path: [", r"task\.yaml: cannot be read as a task of lm-eval"),
    "data of the hub": (
        CHOICE.replace("dataset_path: json", "dataset_path: allenai/ai2_arc"),
        r"task\.yaml: dataset_path is 'allenai/ai2_arc'.*expected dataset_path: json",
    ),
    "a missing file": (
        CHOICE.replace("test: test.jsonl", "test: text.jsonl"),
        r"text\.jsonl: no such file; task\.yaml names it",
    ),
    "missing code": (
        CHOICE.replace("doc_to_choice: choices", "doc_to_choice: !function utils.choices"),
        r"task\.yaml: cannot be read as a task of lm-eval",
    ),
    "an unknown key": (CHOICE + "num_shots: 3\n", r"task\.yaml: lm-eval cannot make.*num_shots"),
    "a column that no row has": (
        CHOICE.replace("{{query}}", "{{question}}"),
        r"task\.yaml: lm-eval cannot make.*test\.jsonl.*'question' is undefined",
    ),
}


@pytest.mark.parametrize(("text", "said"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_rows_that_cannot_be_read_are_named(text, said, task):
    made = task(CHOICE, [])
    (made.folder / "test.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        loading.load(made)


@pytest.mark.parametrize(("yaml", "said"), WRONG_TASKS.values(), ids=WRONG_TASKS)
def test_a_task_that_cannot_be_read_says_why(yaml, said, task):
    with pytest.raises(InputError, match=said):
        loading.load(task(yaml, COLOURS))


def test_a_folder_without_task_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"task\.yaml: no such file"):
        loading.load(Task("empty", "generation", "multiple_choice", tmp_path))


def test_the_name_of_the_task_is_that_of_the_folder_not_of_its_file(task):
    (found,) = loading.load(task(CHOICE + "task: arc_easy\n", COLOURS))
    assert found.task_name == "colours"
