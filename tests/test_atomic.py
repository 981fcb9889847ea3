"""Files and folders that are complete or unchanged."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from gritlm import atomic


def content(folder: Path) -> dict[str, str]:
    """Return the names of all files below a folder with their text."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_is_replaced_or_unchanged(tmp_path, error):
    path = tmp_path / "new" / "a.json"
    with atomic.replacing(path) as temporary:
        temporary.write_text("one")
        assert atomic.is_temporary(temporary.name, of=["a.json"])
        assert not atomic.is_temporary(temporary.name, of=["b.json"])
    with suppress(error), atomic.replacing(path) as temporary:
        temporary.write_text("two")
        raise error
    assert content(tmp_path) == {"new/a.json": "one"}


def make(target: Path, text: str) -> None:
    """Replace a folder by one with a file in a folder."""
    with atomic.replacing_folder(target) as work:
        (work / "scratch").write_text("not kept")
        (work / "model" / "inside").mkdir(parents=True)
        (work / "model" / "inside" / "a").write_text(text)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_folder_is_replaced_or_unchanged(tmp_path, monkeypatch, error):
    target = tmp_path / "folder"
    (tmp_path / ".folder.0123.tmp").mkdir()  # of a killed process
    make(target, "one")
    make(target, "two")
    assert content(tmp_path) == {"folder/inside/a": "two"}
    rename = Path.rename

    def broken(path: Path, to: Path) -> Path:
        if path.name == "model":
            raise error
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(error):
        make(target, "three")
    assert content(tmp_path) == {"folder/inside/a": "two"}
    assert list(tmp_path.iterdir()) == [target]
