"""Files of images and sounds across failures: a passage of the index never loses its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gritlm.lm.sampling import SamplingParams
from gritlm.rag import workspace
from gritlm.rag.index import passage_rows
from gritlm.rag.index.index import Index
from gritlm.rag.index.passage_table import IndexFailedError
from gritlm.rag.media import media_library
from gritlm.rag.options import AnswerOptions
from tests.rag.media.conftest import QUESTION, opened, picture

FRESH = AnswerOptions(mode="none", sampling=SamplingParams(max_new_tokens=4))


def kept(store: Path) -> set[str]:
    return {each.name for each in (store / "media").iterdir()}


def fail(*_: object, **__: object) -> None:
    raise IndexFailedError("the disk of the index is full")


@pytest.mark.parametrize("change", ["replace", "delete"])
def test_files_stay_while_the_index_has_their_passages(seeing, tmp_path, monkeypatch, change):
    path = picture(tmp_path / "photo.png")
    store = tmp_path / "store"
    with opened(store, seeing) as engine:
        engine.add([path])
        before = kept(store)
        (document,) = engine.documents()
        picture(path, seed=1)
        run = {"replace": lambda: engine.add([path]), "delete": lambda: engine.delete(document.id)}
        with monkeypatch.context() as patch:
            patch.setattr(Index, "add" if change == "replace" else "delete", fail)
            with pytest.raises(IndexFailedError):
                run[change]()
        assert kept(store) == before
        assert len(engine.answer(QUESTION, FRESH).sources) == 1
    with opened(store, seeing) as engine:
        if change == "replace":
            assert engine.add([path]).replaced == 1
            assert not kept(store) & before
        else:
            assert engine.delete(engine.documents()[0].id) == 1
            assert kept(store) == set()


def test_an_error_after_the_commit_leaves_the_new_files(seeing, tmp_path, monkeypatch):
    add = Index.add

    def add_and_fail(*args: object, **options: object) -> None:
        add(*args, **options)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with opened(tmp_path / "store", seeing) as engine:
        path = picture(tmp_path / "photo.png")
        with monkeypatch.context() as patch:
            patch.setattr(Index, "add", add_and_fail)
            with pytest.raises(KeyboardInterrupt):
                engine.add([path])
        assert len(kept(tmp_path / "store")) == 2
        assert len(engine.answer(QUESTION, FRESH).sources) == 1


def test_a_file_without_its_ids_is_deleted_after_a_failure(seeing, tmp_path, monkeypatch):
    replacing = media_library.replacing

    def full(path: Path) -> object:
        if path.suffix == ".ids":
            raise OSError(28, "No space left on device")
        return replacing(path)

    monkeypatch.setattr(media_library, "replacing", full)
    with opened(tmp_path / "store", seeing) as engine:
        with pytest.raises(OSError, match="No space left"):
            engine.add([picture(tmp_path / "photo.png")])
        assert kept(tmp_path / "store") == set()


def test_files_of_a_killed_run_are_not_returned_and_are_deleted_by_gc(seeing, tmp_path):
    store = tmp_path / "store"
    with opened(store, seeing) as engine:
        engine.add([picture(tmp_path / "photo.png")])
        (passage,) = engine.index.passages()
        before = kept(store)
        orphan = replace(passage, id="0" * 32)  # as if the process died before the commit
        engine._assembler.media.save(orphan, "image", b"12345", [1])
        (store / "media" / f".{passage.id}.png.{'1' * 32}.tmp").write_bytes(b"123")
        (store / "media/notes.txt").write_text("not of gritlm")
        assert engine.media(orphan.id) is None
        assert engine.media(passage.id)[0] == "image"
    assert workspace.delete_orphaned_media(store) == 5 + 8 + 3
    assert kept(store) == before | {"notes.txt"}
    with opened(store, seeing) as engine:
        assert len(engine.answer(QUESTION, FRESH).sources) == 1


def test_gc_deletes_no_file_while_rows_are_damaged(seeing, tmp_path, monkeypatch):
    store = tmp_path / "store"
    with opened(store, seeing) as engine:
        engine.add([picture(tmp_path / "photo.png")])
    before = kept(store)
    monkeypatch.setattr(passage_rows, "damaged_part", lambda _: "text")
    assert workspace.delete_orphaned_media(store) == 0
    assert kept(store) == before
