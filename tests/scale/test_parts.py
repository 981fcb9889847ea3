"""Parts of an input: together they are every row, once, whatever their size."""

from __future__ import annotations

import pytest

pytest.importorskip("pyarrow")

from gritlm.errors import InputError
from gritlm.scale.bulk.part_rows import read_part
from gritlm.scale.bulk.parts import PartOptions, input_files, plan
from tests.scale import collection


def read(path, options):
    files = input_files([str(path)])
    return [read_part(part, files[part.file], options) for part in plan(files, options)]


@pytest.mark.parametrize("size", [1, 17, 100, 4096, 10**6])
def test_byte_ranges_of_lines_are_every_row_once(tmp_path, size):
    rows = collection.rows(40)
    path = collection.write_lines(tmp_path / "rows.jsonl", rows)
    parts = read(path, PartOptions(line_bytes=size))
    assert [key for part in parts for key in part.ids] == [row["id"] for row in rows]
    assert [text for part in parts for text in part.texts] == [row["text"] for row in rows]


def test_lines_without_a_last_line_end_and_with_blank_ones(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffone\n\n  \ntwo äöü\r\nthree".encode())
    for size in range(1, 12):
        parts = read(path, PartOptions(line_bytes=size))
        assert [text for part in parts for text in part.texts] == ["one", "two äöü", "three"]


@pytest.mark.parametrize("rows_of_a_part", [1, 7, 64])
def test_row_ranges_of_parquet_are_every_row_once(tmp_path, rows_of_a_part):
    rows = collection.rows(100)
    path = collection.write_parquet(tmp_path / "rows.parquet", rows, group=33)
    parts = read(path, PartOptions(rows=rows_of_a_part))
    assert [key for part in parts for key in part.ids] == [row["id"] for row in rows]


def test_rows_without_id_are_named_by_file_and_place(tmp_path):
    lines = collection.write_lines(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    table = collection.write_parquet(tmp_path / "b.parquet", [{"text": "x"}, {"text": "y"}], 1)
    assert read(lines, PartOptions())[0].ids == ["a.jsonl#0", "a.jsonl#16"]
    found = read(table, PartOptions())
    assert [part.ids for part in found] == [["b.parquet#0"], ["b.parquet#1"]]


def test_rows_that_cannot_be_used_have_their_reason(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"id": 1, "text": "good"}\n{"id": 2, "text": ""}\n{"id": 3, "text": 7}\n{"id": 4}\n'
        "{broken\n[1]\n",
        encoding="utf-8",
    )
    found = read(path, PartOptions())[0]
    assert found.ids == ["1"]
    reasons = {row.id: row.reason for row in found.rejected}
    assert reasons["2"] == "the text is empty"
    assert "int, not a text" in reasons["3"]
    assert "missing, not a text" in reasons["4"]
    content = path.read_bytes()
    assert "broken JSON" in reasons[f"rows.jsonl#{content.index(b'{broken')}"]
    assert "list" in reasons[f"rows.jsonl#{content.index(b'[1]')}"]


def test_a_title_is_put_before_the_text_as_in_encode_corpus(tmp_path):
    path = collection.write_lines(tmp_path / "rows.jsonl", [{"title": "Cats", "text": "sleep"}])
    assert read(path, PartOptions())[0].texts == ["Cats sleep"]


def test_a_schema_without_the_text_column_names_its_columns(tmp_path):
    rows = [{"id": "a", "body": "text"}]
    for path in (
        collection.write_parquet(tmp_path / "rows.parquet", rows),
        collection.write_lines(tmp_path / "rows.jsonl", rows),
    ):
        with pytest.raises(InputError, match=r"has no column 'text'.*columns: id, body.*--field"):
            plan(input_files([str(path)]), PartOptions())
        assert plan(input_files([str(path)]), PartOptions(field="body"))


def test_folders_are_searched_without_hidden_files(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.jsonl", "a.jsonl", "_manifest.jsonl", "deep/c.jsonl", "deep/.d.jsonl", "e.md"):
        collection.write_lines(tmp_path / name, collection.rows(1))
    names = [each.location.path[len(str(tmp_path)) + 1 :] for each in input_files([str(tmp_path)])]
    assert names == ["a.jsonl", "b.jsonl", "deep/c.jsonl"]


def test_sources_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    for source, message in {
        tmp_path / "missing": "does not exist",
        tmp_path / "a.pdf": r"expected a file of \.parquet",
        tmp_path: "no file to read",
    }.items():
        with pytest.raises(InputError, match=message):
            input_files([str(source)])
