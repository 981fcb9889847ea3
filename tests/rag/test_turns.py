"""Long work lets others go on, and comes to the same."""

from __future__ import annotations

import time

import pytest
import torch
from transformers.cache_utils import DynamicCache

from gritlm import GritLM
from gritlm.lm import generator
from gritlm.lm.generator import prefill
from gritlm.lm.generator import prefill_in_pieces as read
from gritlm.rag import cooperative
from gritlm.rag.cooperative import paced
from gritlm.rag.engine import RagEngine
from gritlm.rag.options import AnswerOptions
from gritlm.rag.retrieve import Search
from gritlm.rag.reuse.reuse_check import blocks_of
from tests import tiny

DOCUMENTS = [{"id": f"d{number}", "text": text} for number, text in enumerate(tiny.SENTENCES)]
QUESTION = "What colour is the ball?"


@pytest.fixture(scope="module")
def model(tiny_model) -> GritLM:
    folder = tiny_model(max_position_embeddings=1024)
    return GritLM(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory):
    with RagEngine.open(tmp_path_factory.mktemp("engine") / "store", model) as made:
        made.add(DOCUMENTS)
        yield made


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Grows with every call of ``calls.append``; small pieces are read at once."""
    monkeypatch.setattr(generator, "PIECE", 16)
    monkeypatch.setattr(cooperative, "_MOST_S", 0.0)
    return []


def test_a_prompt_in_pieces_gives_the_logits_of_one_pass(model, calls):
    ids = list(range(3, 103))
    whole_V = prefill(model.lm, model.lm.new_cache(len(ids)), ids)
    pieces_V = read(model.lm, model.lm.new_cache(len(ids)), ids, lambda: calls.append(1))
    torch.testing.assert_close(pieces_V, whole_V, atol=1e-4, rtol=1e-4)
    assert len(calls) == 6


def test_caches_that_may_take_one_pass_only_get_one(model, calls):
    cache = DynamicCache(config=model.lm.config)
    read(model.lm, cache, list(range(3, 103)), lambda: calls.append(1))
    assert not calls


def test_reranking_lets_others_go_on_behind_every_passage(engine, calls):
    search = Search(top_k=2, rerank=6, rerank_method="yes-no")
    hits = engine.find(QUESTION, search, checkpoint=lambda: calls.append(1))
    assert len(calls) >= len(DOCUMENTS)
    assert hits == engine.find(QUESTION, search)


def test_a_question_read_in_pieces_is_answered_the_same(engine, calls):
    options = AnswerOptions(top_k=6, mode="none")
    expected = engine.prepare(QUESTION, options).prompt
    asked = engine.prepare(QUESTION, options, checkpoint=lambda: calls.append(1)).prompt
    assert len(calls) >= 4
    torch.testing.assert_close(asked.logits_V, expected.logits_V, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", ["doc", "none"])
@pytest.mark.parametrize("fusion", ["sequence", "token"])
def test_passages_that_are_read_alone_let_others_go_on(engine, calls, mode, fusion):
    options = AnswerOptions(top_k=5, fusion=fusion, mode=mode, margin=2.0)
    expected = engine.prepare(QUESTION, options).prompt
    asked = engine.prepare(QUESTION, options, checkpoint=lambda: calls.append(1)).prompt
    assert len(calls) >= (1 if fusion == "sequence" else len(DOCUMENTS))
    torch.testing.assert_close(asked.logits_V, expected.logits_V, atol=1e-4, rtol=1e-4)


def test_the_reuse_check_lets_others_go_on(engine, monkeypatch, calls):
    monkeypatch.setattr(engine, "_reuse_check", None)
    monkeypatch.setattr(engine, "place", None)
    engine.query(QUESTION, AnswerOptions(), checkpoint=lambda: calls.append(1))
    assert calls


def test_a_block_lets_others_go_on_between_its_layers(model, calls):
    ids = list(range(3, 40))
    (block,) = blocks_of(model.lm, [ids], causal=False, pause=lambda: calls.append(1))
    (expected,) = blocks_of(model.lm, [ids], causal=False)
    assert len(calls) == model.lm.config.num_hidden_layers
    torch.testing.assert_close(block.data, expected.data)


def test_half_of_the_time_is_kept():
    took = []

    def checkpoint():
        took.append(1)
        time.sleep(0.03)

    pause, started = paced(checkpoint), time.perf_counter()
    while time.perf_counter() - started < 0.2:
        pause()
    assert 2 <= len(took) <= 4
