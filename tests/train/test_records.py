"""Folders and paths that lead nowhere."""

from __future__ import annotations

from pathlib import Path

from tests.train.files import lines, pair, pairs, queries, refused


def test_the_files_of_a_folder_come_in_the_order_of_their_names(tmp_path, monkeypatch):
    for number in (3, 1, 0, 2):
        lines(tmp_path / f"{number}.jsonl", [pair(number), pair(number + 10)])
    (tmp_path / "README.md").write_text("about")
    (tmp_path / ".hidden.jsonl").write_text("no rows")
    (tmp_path / "inner.json").mkdir()
    expected = [query for n in range(4) for query in (f"query {n}", f"query {n + 10}")]
    listing = list(tmp_path.iterdir())
    for order in (sorted(listing), sorted(listing, reverse=True)):
        monkeypatch.setattr(Path, "iterdir", lambda self, order=order: iter(order))
        rows = pairs(tmp_path)
        assert queries(rows) == expected
        assert rows.place(5) == f"{tmp_path}/2.jsonl:2"


def test_a_missing_file_is_told_what_is_near(tmp_path):
    lines(tmp_path / "train.jsonl", [pair(0)])
    assert refused(tmp_path / "trian.jsonl") == (
        f"{tmp_path}/trian.jsonl does not exist; did you mean 'train.jsonl'?"
    )
    assert "; there is no folder" in refused(tmp_path / "none" / "a.jsonl")
    for number in range(200):
        lines(tmp_path / f"{number}.jsonl", [])
    assert len(refused(tmp_path / "quite another name")) < 500


def test_a_folder_without_data_and_a_file_of_another_kind_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    assert "has no data files; expected .jsonl, .ndjson, .jsonl.gz" in refused(tmp_path)
    assert refused(tmp_path / "notes.txt").endswith(
        "has an ending that is not known; expected .jsonl, .ndjson, .jsonl.gz, .ndjson.gz, .json, "
        ".parquet or .arrow"
    )


def test_an_empty_file_of_a_folder_is_named(tmp_path):
    lines(tmp_path / "a.jsonl", [pair(0)])
    lines(tmp_path / "b.jsonl", [])
    assert refused(tmp_path).startswith(f"{tmp_path}/b.jsonl is empty")
