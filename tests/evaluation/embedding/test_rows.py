"""Files with a wrong line: the message names it."""

from __future__ import annotations

import pytest

from gritlm.errors import InputError
from gritlm.evaluation.embedding import rows
from gritlm.evaluation.tasks.bad_rows import BadRows

COLUMNS = {"text": rows.TEXT, "score": rows.NUMBER}
GOOD = '{"text": "a", "score": 1}\n'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "3: broken JSON"),
        ("[1]", "3: list; expected one JSON object a line"),
        ('{"text": "a"}', "3: no column 'score'; the row has text"),
        ('{"text": " ", "score": 1}', "3: column 'text' is ' '; expected a text that is not blank"),
        ('{"text": 5, "score": 1}', "3: column 'text' is 5"),
        ('{"text": "a", "score": "high"}', "3: column 'score' is 'high'; expected a number"),
        ('{"text": "a", "score": true}', "3: column 'score' is True"),
        ('{"text": "a", "score": NaN}', "3: column 'score' is nan"),
        ('{"text": "\\ud800", "score": 1}', "3: column 'text' has a lone surrogate"),
    ],
)
def test_a_wrong_line_is_named_with_its_column(tmp_path, line, said):
    file = tmp_path / "test.jsonl"
    file.write_text(f"{GOOD}\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        rows.read(file, COLUMNS, BadRows())
    assert f"{file}:{said}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "has no rows"), (b"\xff\xfe\n", "is not UTF-8")]
)
def test_a_file_that_is_none_is_named(tmp_path, content, said):
    file = tmp_path / "test.jsonl"
    file.write_bytes(content)
    with pytest.raises(InputError, match=said):
        rows.read(file, COLUMNS, BadRows())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"test\.jsonl is missing"):
        rows.read(tmp_path / "test.jsonl", COLUMNS, BadRows())


def test_rows_keep_their_place(tmp_path):
    file = tmp_path / "test.jsonl"
    file.write_text(f"\ufeff\n{GOOD}\n{GOOD}", encoding="utf-8")
    assert [row.place for row in rows.read(file, COLUMNS, BadRows())] == [f"{file}:2", f"{file}:4"]
