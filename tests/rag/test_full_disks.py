"""Deleting and adding documents on a disk that takes no more: done, or refused without effect."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest

from gritlm.rag.engine import RagEngine
from gritlm.rag.index.index import Index
from gritlm.rag.index.lance_errors import lance_errors
from gritlm.rag.index.passage_table import IndexFullError
from gritlm.rag.ingest import ingest
from gritlm.rag.kvstore.errors import StoreFullError
from gritlm.rag.kvstore.lmdb import lmdb_environment
from gritlm.rag.kvstore.store import KVStore
from tests.rag.conftest import TEXTS

IDS = [f"d{number}" for number in range(len(TEXTS))]


@pytest.fixture
def engine(grit, tmp_path):
    with RagEngine.open(tmp_path / "store", grit) as made:
        made.add([{"id": name, "text": text} for name, text in zip(IDS, TEXTS, strict=True)])
        yield made


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def table_full(*_: object, **__: object) -> None:
    raise RuntimeError("lance error: LanceError(IO): No space left on device (os error 28)")


@pytest.mark.parametrize("step", ["blocks", "table"])
def test_a_delete_that_finds_no_space_has_no_effect(engine, monkeypatch, step):
    with monkeypatch.context() as patch:
        if step == "blocks":
            patch.setattr(lmdb_environment.LmdbEnvironment, "write", no_space)
        else:
            patch.setattr(engine.index.table.lance, "delete", table_full)
        with pytest.raises(StoreFullError):
            engine.delete("d1")
        assert [each.id for each in engine.documents()] == IDS
        assert engine.answer("Who sleeps?", top_k=5, max_new_tokens=2).text is not None
    assert engine.delete("d1") == 1
    assert "d1" not in engine.index.known()


def test_a_delete_that_took_effect_is_done_though_no_space_is_left_behind_it(engine, monkeypatch):
    delete = engine.index.table.lance.delete

    def then_full(where: str) -> None:
        delete(where)
        table_full()

    with monkeypatch.context() as patch:
        patch.setattr(engine.index.table.lance, "delete", then_full)
        patch.setattr(KVStore, "gc", lambda *_, **__: raise_full())
        assert engine.delete("d1") == 1
    assert [each.id for each in engine.documents()] == [name for name in IDS if name != "d1"]


def raise_full() -> None:
    raise StoreFullError("the disk is full")


def test_documents_that_are_in_are_acknowledged_though_their_files_stay_apart(engine, monkeypatch):
    monkeypatch.setattr(Index, "settle", lambda *_: raise_full())
    monkeypatch.setattr(KVStore, "gc", lambda *_, **__: raise_full())
    done = engine.add([{"id": "d1", "text": "Something else."}, {"id": "new", "text": "New."}])
    assert (done.documents, done.replaced) == (2, 1)
    assert {"d1", "new"} <= engine.index.known().keys()


def test_a_full_disk_of_the_table_is_a_full_store():
    with pytest.raises(IndexFullError, match="free some space"), lance_errors("/p"):
        table_full()
    assert issubclass(IndexFullError, StoreFullError)
    with ingest.skipped_when_full("its files stay apart"):
        raise_full()


def test_a_new_store_is_for_its_user_alone_and_an_old_one_keeps_its_mode(grit, tmp_path):
    place = tmp_path / "new"
    with RagEngine.open(place, grit) as made:
        made.add([{"id": "a", "text": "Water boils."}])
    for folder in (place, place / "kv", place / "kv" / "arenas", place / "index"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in (*(place / "kv" / "arenas").iterdir(), *(place / "kv" / "index.lmdb").iterdir()):
        assert not file.stat().st_mode & 0o077
    place.chmod(0o755)
    (place / "kv").chmod(0o750)
    RagEngine.open(place, grit).close()
    assert stat.S_IMODE(place.stat().st_mode) == 0o755
    assert stat.S_IMODE(Path(place / "kv").stat().st_mode) == 0o750
