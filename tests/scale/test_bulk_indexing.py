"""Bulk indexing on Ray: the workspace that one process makes, also after a kill."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.lm.sampling import SamplingParams
from gritlm.rag import ChunkingOptions, RagEngine
from gritlm.rag.index.table import open_table
from gritlm.rag.options import AnswerOptions
from gritlm.rag.plan import PromptAssembler
from gritlm.scale import IndexSettings, WorkerPool, index, shared_blocks
from gritlm.scale.bulk.indexing import ClusterIndexer
from tests.scale import collection

pytestmark = collection.WARNINGS
CUTTING = ChunkingOptions(max_tokens=48)
ROWS = 90


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("documents") / "rows.jsonl"
    return collection.write_lines(path, collection.rows(ROWS))


@pytest.fixture(scope="module")
def alone(tmp_path_factory, folder, source):
    """A workspace that one process made."""
    place = tmp_path_factory.mktemp("alone") / "store"
    with RagEngine.open(place, GritLM(**arguments(folder)), cutting=CUTTING) as engine:
        engine.add(source)
    return place


def arguments(folder):
    return {"model_name_or_path": str(folder), "dtype": "float32", "device": "cpu"}


def settings(folder, workers=1, shared=None):
    pool = WorkerPool(workers, workers)
    return IndexSettings(arguments(folder), pool, CUTTING, shared_blocks=shared)


def table(place):
    """Return ids and vectors in the order of the table."""
    found = open_table(str(place / "index"), None, create=False).to_arrow()
    return found["id"].to_pylist(), np.array(found["vector"].to_pylist(), dtype=np.float32)


def answers(place, folder, shared=None):
    """Return texts, sources and tiers of some answers."""
    options = AnswerOptions(top_k=2, fusion="joint", sampling=SamplingParams(max_new_tokens=4))
    model = GritLM(**arguments(folder))
    with RagEngine.open(place, model, read_only=True, shared_blocks=shared) as engine:
        found = [engine.answer(f"What is passage {number}?", options) for number in (3, 47, 88)]
    texts = [(each.text, [source.document_id for source in each.sources]) for each in found]
    return texts, {part["tier"] for each in found for part in each.trace.parts[:2]}


def content(place, folder):
    """Return passages in the order of the table, their KV blocks, and hits of some searches."""
    with RagEngine.open(place, GritLM(**arguments(folder)), read_only=True) as engine:
        passages = list(engine.index.passages(engine.index.known()))
        ids = PromptAssembler(engine.model).passage_ids([each.embedded for each in passages])
        blocks = [engine.store.fetch(engine.store.key(each, causal=True)) for each in ids]
        texts = [(each.document_id, each.text) for each in passages]
        hits = [
            [
                (hit.passage.document_id, round(hit.score, 4))
                for hit in engine.retrieve(text, top_k=5)
            ]
            for _, text in texts[:3]
        ]
    return texts, [found.block.data.numpy() for found in blocks], hits


@pytest.mark.usefixtures("ray_on_this_machine")
def test_two_workers_make_the_workspace_of_one_process(tmp_path, folder, source, alone):
    workers = 2
    place = tmp_path / "store"
    report = index([source], place, settings(folder, workers))
    assert report.added.documents == ROWS
    assert report.added.stored == report.passages  # of which some have the same text
    texts, blocks, hits = content(place, folder)
    expected_texts, expected_blocks, expected_hits = content(alone, folder)
    assert texts == expected_texts
    assert hits == expected_hits
    for found, wanted in zip(blocks, expected_blocks, strict=True):
        assert np.abs(found - wanted).max() < 1e-4
    again = index([source], place, settings(folder, workers))
    assert (again.added.documents, again.added.unchanged) == (0, ROWS)


@pytest.mark.usefixtures("ray_on_this_machine")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_makes_one_table_and_writes_blocks_to_shared_storage(
    tmp_path, folder, source, alone, workers
):
    place = tmp_path / "store"
    shared = shared_blocks(tmp_path / "blocks", always=True)
    report = index([source], place, settings(folder, workers, shared))
    assert report.added.stored == report.passages
    assert report.blocks.blocks == 0  # none went through this process
    ids, vectors_ND = table(place)
    expected_ids, expected_ND = table(alone)
    assert ids == expected_ids
    assert np.abs(vectors_ND - expected_ND).max() < 1e-5
    found, tiers = answers(place, folder, shared)
    expected, _ = answers(alone, folder)
    assert found == expected
    assert tiers in ({"shared"}, {"shared", "memory"})  # a passage may be in several answers
    again = index([source], tmp_path / "again", settings(folder, workers, shared))
    assert again.added.stored == report.passages
    assert table(tmp_path / "again")[0] == ids


def test_a_killed_worker_loses_nothing(tmp_path, folder, ray_on_this_machine, monkeypatch):
    del ray_on_this_machine
    rows = [
        {"id": f"d{number:04d}", "text": collection.passage(number) * 4} for number in range(300)
    ]
    path = collection.write_lines(tmp_path / "rows.jsonl", rows)
    shared = shared_blocks(tmp_path / "blocks", always=True)
    killed = []
    receive = ClusterIndexer._receive

    def receive_and_kill(self, found, batch, done):
        if len(killed) < 2:
            killed.append(kill_a_worker())
        return receive(self, found, batch, done)

    monkeypatch.setattr(ClusterIndexer, "_receive", receive_and_kill)
    report = index([path], tmp_path / "store", settings(folder, 2, shared))
    assert killed == [True, True]
    assert report.added.documents == len(rows)
    assert len(report.added.skipped) == 0
    model = GritLM(**arguments(folder))
    with RagEngine.open(tmp_path / "one", model, cutting=CUTTING) as engine:
        engine.add(path)
    ids, vectors_ND = table(tmp_path / "store")
    expected_ids, expected_ND = table(tmp_path / "one")
    assert ids == expected_ids
    assert np.abs(vectors_ND - expected_ND).max() < 1e-5


def kill_a_worker() -> bool:
    """Kill one process that embeds, and return whether there was one."""
    for process in psutil.process_iter(["cmdline"]):
        is_worker = "PassageWorker" in " ".join(process.info["cmdline"] or [])
        if is_worker and psutil.Process() in process.parents():
            process.kill()
            process.wait(10)
            return True
    return False


def test_a_killed_run_goes_on_with_the_rest(tmp_path, folder, ray_on_this_machine):
    rows = [
        {"id": f"d{number:04d}", "text": collection.passage(number) * 4} for number in range(300)
    ]
    path = collection.write_lines(tmp_path / "rows.jsonl", rows)
    place = tmp_path / "store"
    command = [sys.executable, "-m", "gritlm", "index", path, "--to", place, "--ray"]
    command += ["--address", ray_on_this_machine, "--workers", "1", "--model", folder]
    command += ["--dtype", "float32", "--device", "cpu", "--max-tokens", "48"]
    job = subprocess.Popen(list(map(str, command)))
    arenas = place / "kv" / "arenas"
    until = time.monotonic() + 90
    while job.poll() is None and time.monotonic() < until:
        if sum(each.stat().st_size for each in arenas.glob("*.kv")) > 6_000_000:  # several batches
            break
        time.sleep(0.02)
    job.kill()
    job.wait()
    report = index([path], place, settings(folder))
    assert 0 < report.added.unchanged < len(rows)
    assert report.added.unchanged + report.added.documents == len(rows)
    with RagEngine.open(place, GritLM(**arguments(folder)), read_only=True) as engine:
        known = [each.id.rpartition("#")[2] for each in engine.documents()]
        assert known == [row["id"] for row in rows]
        assert len(engine.index) == report.passages
        assert not engine.store.verify()


@pytest.mark.usefixtures("ray_on_this_machine")
def test_a_second_writer_of_a_workspace_is_refused(tmp_path, folder, source):
    with (
        RagEngine.open(tmp_path / "store", GritLM(**arguments(folder)), cutting=CUTTING),
        pytest.raises(InputError, match="another writer holds this store"),
    ):
        index([source], tmp_path / "store", settings(folder))
