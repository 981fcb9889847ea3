"""Rows of tasks with images and sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from gritlm.errors import InputError
from gritlm.evaluation.senses import media_rows
from gritlm.evaluation.tasks import discovery
from gritlm.evaluation.tasks.bad_rows import BadRowError, BadRows
from gritlm.lm.media.files import LOCAL
from tests.evaluation.senses import tasks

GOOD = [{"image": f"{i}.png", "name": f"name {i}"} for i in range(3)]


def read(folder: Path, rows: list[dict], *, skip: bool = False, limit: int | None = None):
    for number in range(3):
        tasks.picture(folder / f"{number}.png", number)
    task = tasks.write(folder, rows)
    bad = BadRows(skip=skip)
    return media_rows.read(task, limit=limit, bad=bad, rules=LOCAL), bad


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "9.png", "name": "x"}, "there is no file"),
        ({"image": "../outside.png", "name": "x"}, "expected a file in the folder of the task"),
        ({"image": "/etc/hostname", "name": "x"}, "expected a file in the folder of the task"),
        ({"image": "test.jsonl", "name": "x"}, "4: 'test.jsonl'"),
        ({"image": "0.png", "name": " "}, "column 'name' is ' '; expected a text"),
        ({"name": "x"}, "no column 'image'"),
        ({"image": 7, "name": "x"}, "column 'image' is 7; expected a text"),
    ],
)
def test_an_unusable_row_is_named_with_its_line(tmp_path: Path, row, message):
    tasks.picture(tmp_path / "outside.png", 0)
    with pytest.raises(BadRowError, match=message) as error:
        read(tmp_path / "task", [*GOOD, row])
    assert "test.jsonl:4" in str(error.value)
    assert "\n" not in str(error.value)
    rows, bad = read(tmp_path / "task", [*GOOD, row], skip=True)
    assert (len(rows), bad.count) == (3, 1)


def test_a_limit_ends_before_later_rows(tmp_path: Path):
    rows, bad = read(tmp_path / "task", [*GOOD, {"image": "9.png", "name": "x"}], limit=2)
    assert [row.text for row in rows] == ["name 0", "name 1"]
    assert rows[0].media == {"image": tmp_path / "task" / "0.png"}
    assert bad.count == 0


def test_mostly_unusable_rows_are_refused(tmp_path: Path):
    rows = [GOOD[0], *({"image": "9.png", "name": "x"} for _ in range(3))]
    with pytest.raises(InputError, match="3 of 4 rows cannot be used"):
        read(tmp_path / "task", rows, skip=True)


@pytest.mark.parametrize("answer", ["", "...", [], ["red", 3], 5])
def test_an_answer_needs_a_word(tmp_path: Path, answer):
    tasks.picture(tmp_path / "task" / "0.png", 0)
    task = tasks.write(
        tmp_path / "task", [{"image": "0.png", "question": "What?", "answer": answer}]
    )
    with pytest.raises(BadRowError, match="column 'answer' is"):
        media_rows.read(task, limit=None, bad=BadRows(), rules=LOCAL)


def test_the_files_tell_the_type(tmp_path: Path):
    made = [
        tasks.named(tmp_path / "a"),
        tasks.spoken(tmp_path / "b"),
        tasks.asked(tmp_path / "c"),
    ]
    assert [task.type for task in made] == ["ImageText", "AudioText", "ImageQA"]
    assert {task.half for task in discovery.local(tmp_path)} == {"senses"}
