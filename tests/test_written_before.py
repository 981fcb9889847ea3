"""A store, a run and a checkpoint of an earlier version open and give what they gave there."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gritlm import GritLM, config
from gritlm.rag.engine import RagEngine
from gritlm.rag.identity import maker_of
from gritlm.rag.kvstore.store import KVStore
from gritlm.rag.options import AnswerOptions
from gritlm.rag.reuse.recompute import FIRST
from gritlm.train.config import TrainConfig
from gritlm.train.run import metrics_log
from gritlm.train.trainer import train
from tests.written_before.write import QUESTION, TEXTS

HERE = Path(__file__).parent / "written_before"
WRITTEN: dict[str, Any] = json.loads((HERE / "written.json").read_text(encoding="utf-8"))
BOUND = 1e-4
RUN = """
[training]
output_dir = "run"
max_steps = 4
per_device_train_batch_size = 4
per_device_generative_bs = 2
learning_rate = 1e-3
warmup_steps = 0
bf16 = false
save_steps = 2
device = "cpu"
resume_from_checkpoint = true

[data]
embedding = [{ path = "pairs.jsonl" }]
generative = [{ path = "chats.jsonl" }]
query_max_len = 48
passage_max_len = 48
generative_max_len = 96

[model]
base = "model"

[loss]
temperature = 0.1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, as working directory: their paths are relative."""
    with zipfile.ZipFile(HERE / "files.zip") as files:
        files.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(name: str) -> GritLM:
    return GritLM(name, dtype="float32", device="cpu")


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("mode", ["none", "doc", "query-doc"])
def test_the_store_gives_the_same_answer(folder, mode, read_only):
    with RagEngine.open("store", load("model"), read_only=read_only) as engine:
        # The version before put all passages into one prompt and recomputed first tokens.
        form = AnswerOptions(2, fusion="joint", mode=mode, blocks="causal", recompute=FIRST)
        answer = engine.answer(QUESTION, form, max_new_tokens=12)
    assert answer.text == WRITTEN["answers"][mode]["text"]
    assert [each.document_id for each in answer.sources] == WRITTEN["answers"][mode]["sources"]


@pytest.mark.parametrize("blocks", ["bidirectional", "causal"])
def test_the_blocks_of_the_store_are_found_and_not_recomputed(folder, blocks):
    with RagEngine.open("store", load("model")) as engine:
        before = engine.store.stats()
        form = AnswerOptions(3, fusion="joint", blocks=blocks)
        answer = engine.answer(QUESTION, form, max_new_tokens=1)
        after = engine.store.stats()
    assert answer.trace.tokens_computed == 0
    assert answer.trace.bytes_read["disk"] > 0
    assert (after.blocks, after.missed) == (before.blocks, 0)
    assert after.from_disk == len(TEXTS)


def test_the_block_store_is_whole(folder):
    with KVStore.open(folder / "store" / "kv", maker_of(load("model")), read_only=True) as store:
        assert store.verify() == []
        assert store.stats().blocks == 2 * len(TEXTS)


def test_documents_of_the_store_are_known_and_new_ones_go_in(folder):
    with RagEngine.open("store", load("model")) as engine:
        known = [{"id": f"d{number}", "text": text} for number, text in enumerate(TEXTS)]
        added = engine.add([*known, {"id": "new", "text": "Bob likes rain."}])
        assert (added.documents, added.unchanged) == (1, len(TEXTS))
        assert len(engine.documents()) == len(TEXTS) + 1


def test_the_run_is_resumed_with_the_same_losses(folder):
    Path("run.toml").write_text(RUN, encoding="utf-8")
    train(config.read("run.toml", TrainConfig), progress=False)
    entries = {entry["step"]: entry for entry in metrics_log.read(Path("run")) if "loss" in entry}
    assert sorted(entries) == [1, 2, 3, 4]
    for expected in WRITTEN["losses"]:
        found = entries[expected["step"]]
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=BOUND)


@pytest.mark.parametrize("name", ["model", "run", "run/checkpoint-000002"])
def test_models_give_the_same_vectors(folder, name):
    vectors_ND = load(name).encode(list(TEXTS))
    assert np.abs(vectors_ND - np.array(WRITTEN["vectors"][name])).max() < BOUND
