"""Changes that are cut short: the old state or the new one, never a part of it."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from gritlm.rag.index.databases import qdrant_table, table_repair
from gritlm.rag.index.index import Index
from gritlm.rag.index.passage_table import IndexFailedError
from tests.rag.test_index import MAKER, document, put, texts, vectors

ROOT = Path(__file__).parents[3]
BEFORE = {"a": ["a one", "a two"], "b": ["b one"]}
CALLS = ("upsert", "delete")


class CutError(OSError):
    """A process that ends, or a server that does not answer."""


def filled(address: str) -> Index:
    index = Index.open(address, MAKER)
    put(index, document("a", "a one", "a two"), document("b", "b one"))
    return index


def state(index: Index) -> dict[str, list[str]]:
    """All passages by document, after the index is checked against itself."""
    found = {each.id: [p.text for p in index.passages(each.id)] for each in index.documents()}
    everything = {text for each in found.values() for text in each}
    assert texts(index.search(vectors(1)[0], top_k=99)) == everything
    assert len(index) == sum(map(len, found.values()))
    assert {each.id: each.passages for each in index.documents()} == {
        name: len(each) for name, each in found.items()
    }
    return found


def replaced(index: Index) -> None:
    put(index, document("a", "a one", "a new", "a three"), document("c", "c one"), content="v2")


def deleted(index: Index) -> None:
    index.delete(["a", "b"])


CHANGES = [
    (replaced, {"a": ["a one", "a new", "a three"], "b": ["b one"], "c": ["c one"]}),
    (deleted, {}),
]


def cut_after(monkeypatch: pytest.MonkeyPatch, calls: int, *, ever: bool) -> list[int]:
    """Let the client's calls fail after some of them: only one, or all that follow."""
    made = [0]

    def cutting(name: str):
        original = getattr(QdrantClient, name)

        def call(*given: object, **named: object) -> object:
            made[0] += 1
            if made[0] > calls if ever else made[0] == calls + 1:
                raise CutError("cut short")
            return original(*given, **named)

        return call

    for name in CALLS:
        monkeypatch.setattr(QdrantClient, name, cutting(name))
    return made


@pytest.mark.parametrize(("change", "after"), CHANGES)
@pytest.mark.parametrize("ever", [True, False])
def test_a_change_of_qdrant_that_is_cut_short_anywhere_is_done_or_undone(
    tmp_path, monkeypatch, change, after, ever
):
    monkeypatch.setattr(qdrant_table, "WRITTEN", 1)  # one point per call
    seen = []
    for calls in range(30):
        address = f"qdrant://{tmp_path / str(calls)}"
        index = filled(address)
        with monkeypatch.context() as patch:
            made = cut_after(patch, calls, ever=ever)
            with suppress(IndexFailedError):
                change(index)
            # This process reads what it sees, before anything is finished or undone.
            now = state(index)
        assert now in (BEFORE, after)
        index.close()
        with Index.open(address, MAKER, create=False) as reader:
            assert state(reader) == now
        with Index.open(address, MAKER) as again:
            assert state(again) == now
            put(again, document("a", "a last"), content="v3")
            assert state(again) == now | {"a": ["a last"]}
            # nothing is left of the change that was cut short
            assert again.table._client.count(again.table._name).count == len(again) + 1
            assert table_repair.examine(again.table).problems == []
        seen.append(now)
        if made[0] <= calls:
            break
    assert made[0] <= calls
    assert seen[0] == BEFORE
    assert seen[-1] == after


@pytest.mark.parametrize("database", ["qdrant", "postgres"])
def test_a_killed_process_leaves_the_old_documents_or_the_new_ones(address, database):
    filled(address).close()
    program = textwrap.dedent(
        """
        import sys
        from gritlm.rag.index.index import Index
        from tests.rag.test_index import MAKER, document, put
        index = Index.open(sys.argv[1], MAKER)
        print("ready", flush=True)
        for number in range(10_000):
            texts = [f"{number} {each}" for each in range(1 + number % 3)]
            put(index, document("a", *texts), document("c", *texts), content=str(number))
        """
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    for seconds in (0.2, 0.33):
        process = subprocess.Popen(
            [sys.executable, "-c", program, address],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with Index.open(address, MAKER) as index:
            found = state(index)
            assert found["b"] == ["b one"]
            assert found["a"] == found["c"]
            numbers = {text.split()[0] for text in found["a"]}
            assert len(numbers) == 1
            assert len(found["a"]) == 1 + int(numbers.pop()) % 3
            assert table_repair.examine(index.table).problems == []


@pytest.mark.parametrize("database", ["postgres"])
def test_a_transaction_that_fails_leaves_everything(address):
    index = filled(address)
    table = index.table
    good = table._sql.changed
    table._sql.changed = "SELECT no_such_column, %s"
    for change in (replaced, deleted):
        with pytest.raises(IndexFailedError, match="no_such_column"):
            change(index)
        assert state(index) == BEFORE
    table._sql.changed = good
    replaced(index)
    assert state(index) == CHANGES[0][1]
    index.close()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the library's lock file
@pytest.mark.parametrize("database", ["qdrant"])
def test_an_embedded_qdrant_that_is_in_use_is_one_error(address):
    with (
        filled(address),
        pytest.raises(IndexFailedError, match="in use by another process") as error,
    ):
        Index.open(address, MAKER)
    assert "use a Qdrant server" in str(error.value)
    Index.open(address, MAKER).close()
    del error
    gc.collect()


@pytest.mark.parametrize("database", ["qdrant", "postgres"])
def test_a_damaged_document_is_removed_by_a_repair(address, database):
    from tests.rag.databases.test_tables import spoil

    with Index.open(address, MAKER) as index:
        put(index, document("a", "one", "two"), document("b", "three"))
        spoil(index, database)
        health = table_repair.examine(index.table)
        assert [row.part for row in health.rows] == ["text"]
        mended = table_repair.rebuild(index.table)
        assert (mended.passages, mended.dropped) == (1, ("a",))
        assert table_repair.examine(index.table).problems == []
        assert index.known() == {"b": "v1"}
