"""Sources as rows: weights, names, caps, duplicates."""

from __future__ import annotations

import json

import pytest

from gritlm.train.config import SourceConfig
from gritlm.train.data.examples import ChatExample, EmbeddingExample, InstructedText, RagExample
from gritlm.train.data.sources import load
from tests.train.files import lines, pair, pairs, queries, refused

CHATS = [{"text": ["Q", "A"]}, {"messages": [{"role": "assistant", "content": "B"}]}]


def test_lines_become_rows(tmp_path):
    rows = pairs(lines(tmp_path / "a.jsonl", [pair(0), pair(1)]))
    assert (len(rows), rows.title, rows.weight, rows.duplicates) == (2, "a", 2.0, 0)
    assert rows[1] == EmbeddingExample(
        InstructedText("query 1", "i"), (InstructedText("answer 1"),), (InstructedText("no"),)
    )
    assert rows[-1] == rows[1]
    assert rows.place(1) == f"{tmp_path}/a.jsonl:2"
    assert len(list(rows)) == 2
    with pytest.raises(IndexError):
        rows[2]


def test_weight_and_title_come_from_the_settings(tmp_path):
    path = lines(tmp_path / "a.jsonl", [pair(0)])
    rows = pairs(path, weight=0.3, name="questions", instruction="x", passage_instruction="y")
    assert (rows.title, rows.weight) == ("questions", 0.3)
    assert rows[0] == EmbeddingExample(
        InstructedText("query 0", "i"),
        (InstructedText("answer 0", "y"),),
        (InstructedText("no", "y"),),
    )


def test_every_kind_is_read(tmp_path):
    rag = lines(tmp_path / "rag.jsonl", [{"query": "q", "documents": ["d"], "answer": "a"}])
    assert list(load(SourceConfig(str(rag)), "rag")) == [RagExample("q", ("d",), "a")]
    chats = load(SourceConfig(str(lines(tmp_path / "chat.jsonl", CHATS))), "generative")
    assert [len(row.messages) for row in chats if isinstance(row, ChatExample)] == [2, 1]


def test_only_the_first_rows_under_a_cap_are_read(tmp_path):
    lines(tmp_path / "a.jsonl", [pair(0), pair(1)])
    (tmp_path / "b.jsonl").write_text(json.dumps(pair(2)) + "\nbroken\n")
    assert queries(pairs(tmp_path, cap=3)) == ["query 0", "query 1", "query 2"]
    assert queries(pairs(tmp_path, cap=2)) == ["query 0", "query 1"]
    assert "b.jsonl:2: broken JSON" in refused(tmp_path, cap=4)


def test_of_equal_rows_the_first_one_is_kept_and_the_others_are_counted(tmp_path):
    same = {"query": ["i", " query  0"], "pos": ["answer\n0"], "neg": ["no"], "id": 5}
    other = {"query": "query 0", "pos": ["answer 0"], "neg": ["no"]}
    moved = {"query": ["i", "query 0"], "pos": ["answer 0", "no"]}
    path = lines(tmp_path / "a.jsonl", [pair(0), same, other, moved, pair(1), pair(0)])
    rows = pairs(path)
    assert (len(rows), rows.duplicates, rows.weight) == (4, 2, 4.0)
    assert [rows.place(i).rpartition(":")[2] for i in range(4)] == ["1", "3", "4", "5"]
    every = load(SourceConfig(str(path)), "embedding", deduplicate=False)
    assert (len(every), every.duplicates) == (6, 0)


def test_a_source_holds_scored_pairs_or_other_rows(tmp_path):
    scored = {"sentence1": "a", "sentence2": "b", "score": 2}
    rows = pairs(lines(tmp_path / "a.jsonl", [scored, scored | {"score": 3}, scored]))
    assert (len(rows), rows.duplicates, rows.scored) == (2, 1, True)
    mixed = lines(tmp_path / "b.jsonl", [scored, pair(0)])
    assert "b.jsonl:2: the row has no score, the first one of its source has one" in refused(mixed)
    mixed = lines(tmp_path / "c.jsonl", [pair(0), scored])
    assert "c.jsonl:2: the row has a score, the first one of its source has none" in refused(mixed)
    assert not pairs(mixed, cap=1).scored


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("data/x.jsonl", "x"),
        ("data/x.jsonl.gz", "x"),
        ("X.Parquet", "X"),
        ("folder/", "folder"),
        (".", "."),
        ("owner/pairs-v1.5", "pairs-v1.5"),
    ],
)
def test_a_source_is_called_by_the_last_part_of_its_path(path, title):
    assert SourceConfig(path).title == title
    assert SourceConfig(path, name="own").title == "own"
