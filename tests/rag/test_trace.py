"""Every token that the model reads for an answer is in its trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import pytest
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from gritlm import GritLM
from gritlm.lm.sampling import SamplingParams
from gritlm.prompts import RagMode
from gritlm.rag.answer import PreparedAnswer
from gritlm.rag.cost import CostModel
from gritlm.rag.engine import RagEngine
from gritlm.rag.options import AnswerOptions
from gritlm.rag.reuse.recompute import Recompute, Reread
from tests import tiny

DOCUMENTS = [{"id": f"d{number}", "text": text} for number, text in enumerate(tiny.SENTENCES)]
QUESTION = "What colour is the ball?"
BRIEF = SamplingParams(8)
AGAIN = [None, Recompute(tokens=4), Recompute("value", share=0.3), Recompute("question", share=0.3)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> GritLM:
    folder = tiny.folder(tmp_path_factory.mktemp("llama"), max_position_embeddings=1024)
    return GritLM(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory) -> Iterator[RagEngine]:
    with RagEngine.open(tmp_path_factory.mktemp("engine") / "store", model) as made:
        made.add(DOCUMENTS)
        made._planner.prepare("auto", None)  # measured once, for no question
        yield made


@contextmanager
def counted() -> Iterator[list[int]]:
    """Numbers of tokens that go into a model, by whichever of its views, pass by pass."""
    read: list[int] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], _: object) -> None:
        if isinstance(module, nn.Embedding):
            read.append(given[0].numel())

    hook = register_module_forward_hook(note)
    try:
        yield read
    finally:
        hook.remove()


def total(asked: PreparedAnswer) -> int:
    trace = asked.trace
    return trace.tokens_embedded + trace.tokens_reranked + trace.tokens_read


@pytest.mark.parametrize("again", AGAIN)
@pytest.mark.parametrize("mode", [*get_args(RagMode), "auto"])
@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_tokens_of_a_trace_are_those_that_the_model_reads(engine, mode, top_k, again):
    options = AnswerOptions(top_k, mode=mode, recompute=again, sampling=BRIEF)
    with counted() as read:
        asked = engine.prepare(QUESTION, options)
    assert total(asked) == sum(read) > 0
    chosen = again is not None and again.by != "first" and asked.trace.tokens_reused
    assert bool(asked.trace.tokens_selecting) == bool(chosen)


@pytest.mark.parametrize("mode", ["query-doc", "doc"])
def test_blocks_that_are_missing_and_candidates_are_counted(model, tmp_path, mode):
    with RagEngine.open(tmp_path / "store", model) as engine:
        engine.add(DOCUMENTS)
        engine._planner.prepare(mode, None)
        for blocks in ("causal", "bidirectional"):
            for _ in range(2):  # first computed, then from the store
                with counted() as read:
                    asked = engine.prepare(
                        QUESTION, AnswerOptions(3, rerank=5, mode=mode, blocks=blocks)
                    )
                assert total(asked) == sum(read)
                assert asked.trace.tokens_reranked > 0


def test_tokens_that_are_recomputed_are_in_the_predicted_time(engine):
    options, cost = AnswerOptions(5), CostModel(0.0, 1.0, 0.0, 0.0, "")
    query = engine.query(QUESTION, options)
    plan = engine.plan(query, engine.nearest(query, options), options)
    asked = engine.read(query, plan, options)
    read = asked.trace.tokens_prefilled + asked.trace.tokens_recomputed
    assert asked.trace.tokens_recomputed == 64
    assert cost.first_token(plan, again=Reread(64)) == read
    assert cost.first_token(plan, again=Reread(64, 100)) == read + 100


def test_auto_predicts_with_the_tokens_that_are_recomputed(engine, monkeypatch):
    monkeypatch.setattr(engine._planner, "_cost", CostModel(0.0, 1.0, 0.0, 0.0, ""))
    told = []
    for again in (None, Recompute(tokens=4)):
        options = AnswerOptions(5, mode="auto", recompute=again, sampling=BRIEF)
        asked = engine.prepare(QUESTION, options)
        (reason,) = (each for each in asked.trace.reasons if each.startswith("doc:"))
        told.append(int(reason.split()[1]))
    assert told[1] - told[0] == 1000 * 4 * 4
