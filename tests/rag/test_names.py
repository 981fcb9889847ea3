"""What files are known by: one name a folder, for good, wherever it is looked at from."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from gritlm.errors import InputError
from gritlm.rag.ingest.file_ids import FILE, DocumentIds, free, within


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two of one name."""
    made = tmp_path / "one" / "notes", tmp_path / "two" / "notes"
    for folder in made:
        folder.mkdir(parents=True)
    return made


def test_a_file_is_known_by_its_path_from_the_folder_on(folders):
    names = DocumentIds()
    names.add(folders[0])
    assert names.of(folders[0] / "a.md") == "notes/a.md"
    assert names.of(folders[0] / "new" / "a.md") == "notes/new/a.md"


def test_another_folder_of_the_name_is_known_by_more_of_its_path_and_that_is_told(folders, caplog):
    names = DocumentIds()
    names.add(folders[0])
    assert not caplog.records
    names.add(folders[1])
    assert names.of(folders[1] / "a.md") == "two/notes/a.md"
    assert names.of(folders[0] / "a.md") == "notes/a.md"
    assert f"{folders[1]} is known as 'two/notes'" in caplog.text


def test_names_outlive_the_process_in_whatever_order_folders_come(folders, tmp_path):
    for folder in folders:
        DocumentIds(tmp_path).add(folder)
    again = DocumentIds(tmp_path)
    for folder in reversed(folders):
        again.add(folder)
    assert [again.of(folder / "a") for folder in folders] == ["notes/a", "two/notes/a"]
    assert json.loads((tmp_path / FILE).read_text()) == {
        str(folders[0]): "notes",
        str(folders[1]): "two/notes",
    }


def test_a_folder_within_a_known_one_and_one_around_it_change_no_name(folders, tmp_path):
    names = DocumentIds()
    names.add(folders[0])
    names.add(folders[0] / "new")
    names.add(folders[0].parent)
    assert names.of(folders[0] / "new" / "a") == "notes/new/a"
    assert names.of(folders[0].parent / "b") == "one/b"


def test_a_folder_that_was_moved_keeps_its_name_and_that_is_told(folders, tmp_path, caplog):
    DocumentIds(tmp_path).add(folders[0])
    folders[0].rename(tmp_path / "elsewhere")
    names = DocumentIds(tmp_path)
    with caplog.at_level(logging.WARNING):
        names.add(folders[1])
    assert names.of(folders[1] / "a.md") == "notes/a.md"
    assert f"{folders[0]} is gone: {folders[1]} is known as 'notes' in its place" in caplog.text
    assert list(json.loads((tmp_path / FILE).read_text())) == [str(folders[1])]


@pytest.mark.parametrize(
    ("known", "folder", "name"),
    [
        ({}, "/a/b", "b"),
        ({}, "/", "root"),
        ({"/x/b": "b"}, "/a/b", "a/b"),
        ({"/x/b": "b", "/y/a/b": "a/b"}, "/a/b", "b-2"),
        ({"/x/home": "home", "/x/docs": "docs"}, "/a/home/docs", "a/home/docs"),
        ({"/x/home/docs": "home/docs"}, "/b/home", "b/home"),
        ({"/x/b": "b", "/y/b-2": "b-2"}, "/b", "b-3"),
    ],
)
def test_a_free_name_overlaps_no_other(monkeypatch, known, folder, name):
    monkeypatch.setattr("gritlm.rag.ingest.file_ids._is_gone", lambda folder: False)
    assert free(known, Path(folder)) == name


def test_the_nearest_folder_around_names_a_path():
    known = {"/a": "a", "/a/b": "other"}
    assert within(known, Path("/a/b/c")) == "other/c"
    assert within(known, Path("/a/b")) == "other"
    assert within(known, Path("/a/x")) == "a/x"
    assert within(known, Path("/x")) is None


@pytest.mark.parametrize("content", ["{", "[]", b"\xff\xfe"])
def test_a_damaged_list_says_what_to_do(tmp_path, content):
    (tmp_path / FILE).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match="put it back, or delete it"):
        DocumentIds(tmp_path)
