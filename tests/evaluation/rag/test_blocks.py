"""Blocks of documents: each read once, within a bound, and equal to what embedding leaves."""

from __future__ import annotations

import pytest
import torch

from gritlm.evaluation.rag.blocks import BlockCache
from gritlm.evaluation.rag.prompts import form_for
from gritlm.evaluation.rag.questions import load
from gritlm.lm.generator import prefix_cache
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.train.data import rag_samples
from gritlm.train.data.examples import RagExample
from gritlm.train.model import hidden_states
from tests.evaluation.rag.conftest import GOLD, OTHERS, readings

BOUND = 1e-4


def test_a_block_is_what_the_embedding_pass_leaves_behind(trained):
    texts = [GOLD, *OTHERS]
    ours = BlockCache(trained.lm, causal=False).of(form_for(trained).embedded(texts))
    _, theirs = trained.encode_document(texts, get_cache=True)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.token_ids, other.token_ids)
        assert (one.data - other.data).abs().max() < BOUND


def test_a_document_of_several_questions_is_read_once(trained, monkeypatch):
    documents = form_for(trained).embedded([GOLD, *OTHERS])
    blocks, counted, read = BlockCache(trained.lm, causal=False), [], BlockCache._compute
    monkeypatch.setattr(
        BlockCache, "_compute", lambda self, d: counted.append(len(d)) or read(self, d)
    )
    first = blocks.of([documents[0], documents[1], documents[0]])
    second = blocks.of([documents[1], documents[2]])
    assert counted == [2, 1]
    assert first[0] is first[2]
    assert second[0] is first[1]


def test_those_used_least_lately_go_when_there_are_too_many(trained):
    documents = form_for(trained).embedded(OTHERS)
    most = BlockCache(trained.lm, causal=True)
    sizes = [block.nbytes for block in most.of(documents)]
    blocks = BlockCache(trained.lm, causal=True, most_bytes=sizes[0] + sizes[2])
    kept, gone = blocks.of(documents[:1]), blocks.of(documents[1:2])
    blocks.of(documents[:1])
    blocks.of(documents[2:])
    assert blocks.nbytes <= blocks.most_bytes
    assert blocks.of(documents[:1])[0] is kept[0]
    assert blocks.of(documents[1:2])[0] is not gone[0]


def test_more_than_fits_is_read_all_the_same(trained):
    blocks = BlockCache(trained.lm, causal=False, most_bytes=0)
    assert len(blocks.of(form_for(trained).embedded(OTHERS))) == 3
    assert blocks.nbytes == 0


def test_documents_that_do_not_fit_the_memory_together_are_read_in_halves(trained, monkeypatch):
    documents, read, sizes = form_for(trained).embedded([GOLD, *OTHERS]), BlockCache._compute, []
    expected = BlockCache(trained.lm, causal=False).of(documents)

    def small(self, some):
        sizes.append(len(some))
        if len(some) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return read(self, some)

    monkeypatch.setattr(BlockCache, "_compute", small)
    for one, other in zip(
        BlockCache(trained.lm, causal=False).of(documents), expected, strict=True
    ):
        assert (one.data - other.data).abs().max() < BOUND
    assert sizes == [4, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("kind", ["bidirectional", "causal"])
@torch.inference_mode()
def test_cached_documents_give_the_logits_of_one_block_masked_pass(
    make_model, make_task, family, kind
):
    model, setting = (
        make_model(family=family),
        "cached" if kind == "bidirectional" else "cached causal",
    )
    for question in load(make_task().folder):
        [reading] = readings(model, [question], setting)
        cache = prefix_cache(model.lm, reading.blocks, room=len(reading.ids))
        ours = model.lm.logits(torch.tensor([reading.ids]), cache=cache)[0]
        sample = rag_samples.sample(
            SegmentTokenizer(model.tokenizer),
            RagExample(question.text, question.documents, "red"),
            rag_samples.SampleForm("doc", kind, read_again=0),
            documents=question.documents,
            max_length=10_000,
        )
        hidden = hidden_states.generative_states(
            model.lm.decoder, rag_samples.rows([sample], pad=0)
        )
        theirs = model.model.get_output_embeddings()(hidden)[0, : sample.trained[0][0]]
        assert (ours - theirs[-len(ours) :]).abs().max() < BOUND
