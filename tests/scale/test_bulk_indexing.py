"""Bulk indexing on Ray: the workspace that one process makes, also after a kill."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.rag import ChunkingOptions, RagEngine
from gritlm.rag.plan import PromptAssembler
from gritlm.scale import IndexSettings, WorkerPool, index
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


def settings(folder, workers=1):
    return IndexSettings(arguments(folder), WorkerPool(workers, workers), CUTTING)


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
