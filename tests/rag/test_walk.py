"""Folders to files: hidden ones, stores and links."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gritlm.rag.ingest.folders import SkippedSource, files
from gritlm.rag.workspace_marker import NAME, is_store


def walked(path: Path) -> tuple[list[str], dict[str, str]]:
    """Files from the folder on, and reasons by what was skipped."""
    skipped: list[SkippedSource] = []
    found = [file.relative_to(path).as_posix() for file in files(path, skipped)]
    return found, {each.path: each.reason for each in skipped}


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text of {name}")


def test_files_come_in_order_of_names_without_hidden_ones(tmp_path):
    write(tmp_path, "b/two.txt", "a.txt", "b/one.md", ".hidden/x.txt", "b/.y.txt")
    assert walked(tmp_path) == (["a.txt", "b/one.md", "b/two.txt"], {})


def test_a_store_in_a_folder_is_left_out_without_a_word(tmp_path):
    write(tmp_path, "a.txt", "in/store/kv/store.json", "in/store/index/words.txt")
    (tmp_path / "in" / "store" / NAME).write_text(json.dumps({"format": "gritlm.rag/1"}))
    assert walked(tmp_path) == (["a.txt"], {})


def test_a_store_that_is_handed_in_is_named(tmp_path):
    (tmp_path / NAME).write_text(json.dumps({"format": "gritlm.rag/1"}))
    found, skipped = walked(tmp_path)
    assert not found
    assert "a store that gritlm made" in skipped[str(tmp_path)]


@pytest.mark.parametrize("content", ['{"format": "other/1"}', "{}", "[1]", "not json", "3"])
def test_a_file_of_the_same_name_makes_no_store(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    assert not is_store(tmp_path)
    assert walked(tmp_path)[0] == [NAME]


def test_links_to_folders_are_named_and_not_followed(tmp_path):
    write(tmp_path, "docs/a.txt", "docs/in/b.txt", "other/c.txt")
    for name, target in (("far", "../other"), ("near", "in"), ("loop", "."), ("up", "..")):
        (tmp_path / "docs" / name).symlink_to(target)
    found, skipped = walked(tmp_path / "docs")
    assert found == ["a.txt", "in/b.txt"]
    assert sorted(skipped) == [f"{tmp_path}/docs/{name}" for name in ("far", "loop", "near", "up")]
    assert f"add {tmp_path}/other by its name" in skipped[f"{tmp_path}/docs/far"]


def test_links_to_files_are_read_and_so_is_a_folder_that_was_handed_in_by_a_link(tmp_path):
    write(tmp_path, "docs/a.txt", "b.txt")
    (tmp_path / "docs" / "b.txt").symlink_to("../b.txt")
    (tmp_path / "link").symlink_to("docs")
    assert walked(tmp_path / "link") == (["a.txt", "b.txt"], {})
