"""Every token that the model reads for an answer is in its trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, get_args
from unittest.mock import patch

import pytest
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from gritlm import GritLM
from gritlm.lm.hub.model_config import FusionSettings
from gritlm.lm.lean.decoder import LeanDecoder
from gritlm.lm.sampling import SamplingParams
from gritlm.prompts import RagMode
from gritlm.rag.answer import PreparedAnswer
from gritlm.rag.engine import RagEngine
from gritlm.rag.options import AnswerOptions
from gritlm.rag.reuse.recompute import BEST, FIRST, Recompute
from tests import tiny

DOCUMENTS = [{"id": f"d{number}", "text": text} for number, text in enumerate(tiny.SENTENCES)]
QUESTION = "What colour is the ball?"
BRIEF = SamplingParams(8)
AGAIN = [None, Recompute(tokens=4), FIRST, BEST]


@pytest.fixture(scope="module")
def model(tiny_model) -> GritLM:
    folder = tiny_model(max_position_embeddings=1024)
    return GritLM(folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory) -> Iterator[RagEngine]:
    with RagEngine.open(tmp_path_factory.mktemp("engine") / "store", model) as made:
        made.add(DOCUMENTS)
        made.require_reuse()  # checked once, for no question
        yield made


@contextmanager
def counted() -> Iterator[list[int]]:
    """Numbers of tokens that go into a model, by whichever of its views, pass by pass."""
    read: list[int] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], _: object) -> None:
        if isinstance(module, nn.Embedding):
            read.append(given[0].numel())

    states = LeanDecoder.states

    def lean(self: LeanDecoder, ids_BQ: Tensor, *others: Any, **options: Any) -> Tensor:
        read.append(ids_BQ.numel())
        return states(self, ids_BQ, *others, **options)

    hook = register_module_forward_hook(note)
    try:
        with patch.object(LeanDecoder, "states", lean):  # it has no modules
            yield read
    finally:
        hook.remove()


def total(asked: PreparedAnswer) -> int:
    trace = asked.trace
    return trace.tokens_embedded + trace.tokens_reranked + trace.tokens_read


@pytest.mark.parametrize("again", AGAIN)
@pytest.mark.parametrize("mode", get_args(RagMode))
@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_tokens_of_a_trace_are_those_that_the_model_reads(engine, mode, top_k, again):
    options = AnswerOptions(top_k, fusion="joint", mode=mode, recompute=again, sampling=BRIEF)
    with counted() as read:
        asked = engine.prepare(QUESTION, options)
    assert total(asked) == sum(read) > 0
    assert asked.trace.tokens_selecting == 0
    several = top_k > 1 and mode in ("doc", "doc-query", "query-doc")
    both = mode in ("doc-query", "query-doc")
    assert bool(asked.trace.tokens_recomputed) == (again is not None and (several or both))


@pytest.mark.parametrize("calibration", [None, FusionSettings(cosine=1.0, margin=2.0)])
@pytest.mark.parametrize("mode", ["doc", "none"])
@pytest.mark.parametrize(("fusion", "contrast"), [("sequence", 0), ("token", 0), ("token", 0.5)])
@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_passages_that_are_read_alone_are_counted(
    engine, monkeypatch, top_k, fusion, contrast, mode, calibration
):
    settings = replace(engine.model.settings, fusion=calibration)
    monkeypatch.setattr(engine.model, "settings", settings)
    options = AnswerOptions(top_k, fusion=fusion, contrast=contrast, mode=mode, sampling=BRIEF)
    with counted() as read:
        asked = engine.prepare(QUESTION, options)
    assert total(asked) == sum(read) > 0
    alone = fusion == "sequence" and calibration is None
    rows = (1 if alone else top_k) + (contrast > 0)
    assert bool(asked.trace.tokens_selecting) == (rows > 1)
    prompt = asked.trace.tokens_prefilled + asked.trace.tokens_reused
    assert prompt == sum(part["tokens"] for part in asked.trace.parts)
    assert bool(asked.trace.tokens_reused) == (mode == "doc")


@pytest.mark.parametrize("method", ["yes-no", "likelihood"])
@pytest.mark.parametrize("mode", ["query-doc", "doc"])
def test_blocks_that_are_missing_and_candidates_are_counted(model, tmp_path, mode, method):
    with RagEngine.open(tmp_path / "store", model) as engine:
        engine.add(DOCUMENTS)
        engine.require_reuse()
        for blocks in ("causal", "bidirectional"):
            for _ in range(2):  # first computed, then from the store
                with counted() as read:
                    asked = engine.prepare(
                        QUESTION,
                        AnswerOptions(
                            3,
                            fusion="joint",
                            rerank=5,
                            rerank_method=method,
                            mode=mode,
                            blocks=blocks,
                        ),
                    )
                assert total(asked) == sum(read)
                assert asked.trace.tokens_reranked > 0


def test_a_causal_model_reads_a_passage_and_a_question_once(tiny_model, tmp_path):
    folder = tiny_model(max_position_embeddings=1024)
    model = GritLM(folder, attn="cccc", dtype="float32", device="cpu")
    with RagEngine.open(tmp_path / "store", model) as engine:
        engine.require_reuse()
        with counted() as read:
            engine.add(DOCUMENTS)
        ids = engine._assembler.passage_ids([each["text"] for each in DOCUMENTS])
        assert sum(read) == sum(map(len, ids))
        with counted() as read:
            answer = engine.answer(QUESTION, AnswerOptions(1, sampling=SamplingParams(1)))
        assert sum(read) == answer.trace.tokens_embedded + answer.trace.tokens_read
        assert answer.trace.tokens_computed == 0
