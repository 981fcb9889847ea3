"""Files of JSON objects, and what those that cannot be read are told."""

from __future__ import annotations

import gzip
import json

import pytest

from gritlm.errors import InputError
from gritlm.train.config import SourceConfig
from gritlm.train.data.sources import load
from tests.train.files import lines, pair, pairs, queries, refused

CHATS = [{"text": ["Q", "A"]}, {"messages": [{"role": "assistant", "content": "B"}]}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "A.JSONL"])
def test_lines_of_every_kind_are_found(tmp_path, name):
    path = tmp_path / name
    text = f"\ufeff{json.dumps(pair(0))}\r\n\r\n  \n{json.dumps(pair(1) | {'query': 'ß é 字'})}"
    path.write_bytes(text.encode())
    rows = pairs(path)
    assert queries(rows) == ["query 0", "ß é 字"]
    assert [rows.place(0), rows.place(1)] == [f"{path}:1", f"{path}:4"]


def test_a_compressed_file_gives_the_same_rows(tmp_path):
    plain = lines(tmp_path / "a.jsonl", [pair(i) for i in range(50)])
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    rows = pairs(packed)
    assert list(rows) == list(pairs(plain))
    assert rows.place(7) == f"{packed}:8"


def test_a_json_list_gives_the_same_rows(tmp_path):
    records = [*CHATS, {"text": ["ß", "字"]}]
    listed = tmp_path / "a.json"
    listed.write_text(json.dumps(records, indent=2, ensure_ascii=False), "utf-8")
    rows = load(SourceConfig(str(listed)), "generative")
    plain = load(SourceConfig(str(lines(tmp_path / "a.jsonl", records))), "generative")
    assert list(rows) == list(plain)
    assert rows.place(2) == f"{listed}:3"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", " is empty; expected one JSON object a line"),
        (b"\n \n", " is empty"),
        (
            b'{"query": "q", "pos": ["p"]}\n\n{"query": "q" "pos"}\n',
            ":3: broken JSON (Expecting ',' delimiter at column 15); "
            "expected one JSON object a line",
        ),
        (
            b'{"query": "q", "pos": ["p"\r\n{"query": "r", "pos": ["p"]}\n',
            ":1: broken JSON (Expecting ',' delimiter at column 27); "
            "expected one JSON object a line",
        ),
        (
            b'{"query": "q", "pos": ["p"]}\n{"query": "caf\xe9", "pos": ["p"]}\n',
            ":2: byte 15 (0xe9) is not UTF-8; convert the file to UTF-8",
        ),
        (
            b'{"query": "q", "pos": ["p"]}\n["q", "p"]\n',
            ":2: list; expected one JSON object a line",
        ),
        (b'{"query": "q", "pos": ["p"]}\n{"query": "q", "pos": [""]}\n', ":2: pos[0] is empty"),
        (b'{"query": "q", "pos": ["\\ud800"]}', ":1: pos[0] has a lone surrogate"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, content, message):
    path, packed = tmp_path / "bad.jsonl", tmp_path / "bad.jsonl.gz"
    path.write_bytes(content)
    packed.write_bytes(gzip.compress(content))
    assert refused(path).startswith(f"{path}{message}")
    assert refused(packed).startswith(f"{packed}{message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", " is empty"),
        (b'[{"query": "q", "pos": ["p"]},\n {"query" 3}]', ":2: broken JSON (Expecting ':'"),
        (b'[{"query": "\xe9"}]', ": broken JSON ('utf-8' codec can't decode byte 0xe9"),
        (b'[{"query": "q", "pos": ["p"]}, 7]', ":2: int; expected one JSON object"),
        (
            b'[{"query": "q", "pos": ["p"]}, {"query": "q", "pos": ["\\ud800"]}]',
            ":2: pos[0] has a lone surrogate",
        ),
        (b"[" * 100_000, ": broken JSON ("),
    ],
)
def test_a_json_list_that_cannot_be_used_is_named(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    assert refused(path).startswith(f"{path}{message}")


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b'{"query": "q"}' * 9)[:-12]],
    ids=["other format", "cut off"],
)
def test_a_broken_compressed_file_is_named(tmp_path, content):
    path = tmp_path / "bad.jsonl.gz"
    path.write_bytes(content)
    assert refused(path).startswith(f"{path} is no whole gzip file")


def test_a_file_that_goes_away_later_is_named(tmp_path):
    path = lines(tmp_path / "a.jsonl", [pair(0)])
    rows = pairs(path)
    path.unlink()
    with pytest.raises(InputError, match=r"a.jsonl:1 cannot be read: No such file"):
        rows[0]
