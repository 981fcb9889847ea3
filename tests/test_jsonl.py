"""The one reader of JSON Lines and JSON arrays."""

from __future__ import annotations

import json
from io import BytesIO
from itertools import islice
from pathlib import Path

import pytest

from gritlm import jsonl
from gritlm.errors import InputError

MARK = b"\xef\xbb\xbf"


def test_each_line_stands_at_its_offset_without_mark_and_end():
    data = MARK + b'{"a": 1}\r\n \n\n' + MARK + b"two\n" + MARK + b"\nlast"
    found = list(jsonl.lines(BytesIO(data)))
    assert [(line.number, line.data) for line in found] == [
        (1, b'{"a": 1}'),
        (4, b"two"),
        (6, b"last"),
    ]
    for line in found:
        assert data[line.start :].startswith(line.data)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_over_the_bound_is_cut_and_the_next_one_read(end):
    most = 3 + len(end)
    data = b"one" + end + b"fourteen" + end + b"x" * 3_000_000 + end + b"two" + end + b"four"
    found = list(jsonl.lines(BytesIO(data), max_bytes=most))
    assert [(line.number, line.too_long) for line in found] == [
        (1, False),
        (2, True),
        (3, True),
        (4, False),
        (5, False),
    ]
    assert max(len(line.data) for line in found) == most + 1
    assert all(data[line.start :].startswith(line.data) for line in found)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b'{"a": ',
            "f:3: broken JSON (Expecting value at column 7); expected one JSON object a line",
        ),
        (b'"\xff"', "f:3: byte 2 (0xff) is not UTF-8; convert the file to UTF-8"),
        (b"[1]", "f:3: list; expected one JSON object a line"),
        (b'{"a": NaN}', "f:3: broken JSON (NaN is no JSON); expected one JSON object a line"),
        (b"[" * 100_000, "f:3: broken JSON (maximum recursion depth exceeded"),
    ],
)
def test_a_line_that_is_no_object_is_named(line, message):
    with pytest.raises(InputError) as caught:
        jsonl.record(line, "f:3", finite=True)
    assert str(caught.value).startswith(message)
    with pytest.raises(InputError) as bare:
        jsonl.record(line, finite=True)
    assert str(caught.value) == f"f:3: {bare.value}"


def test_constants_of_other_readers_are_read_unless_refused():
    assert jsonl.record('{"a": -Infinity}') == {"a": float("-inf")}


@pytest.mark.parametrize("text", ["[]", " [ ]\n", "[1]", '\n[{"a": [1, 2]}, "x" ,\n3.5]\n'])
def test_an_array_gives_its_items_one_by_one(text):
    assert list(jsonl.items(text)) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "before", "message"),
    [
        ("[1, 2", [1, 2], "f:1: broken JSON (Expecting ',' or ']' at column 6)"),
        ("[1,\n2,]", [1, 2], "f:2: broken JSON (Expecting value at column 3)"),
        ("[1] 2", [1], "f:1: broken JSON (Extra data behind the array at column 5)"),
        ("[", [], "f:1: broken JSON (Expecting value at column 2)"),
    ],
)
def test_the_items_before_broken_json_are_read(text, before, message):
    items = jsonl.items(text)
    assert list(islice(items, len(before))) == before
    with pytest.raises(json.JSONDecodeError) as caught:
        next(items)
    error = jsonl.broken_file("f", caught.value, expected="a list")
    assert str(error) == f"{message}; expected a list"


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"a\.jsonl is missing; restore it"):
        list(jsonl.text_lines(tmp_path / "a.jsonl"))
