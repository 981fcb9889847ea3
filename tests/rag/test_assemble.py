"""Prompts cut into what is reused and what is read: the ids of training, one BOS, the best last."""

from __future__ import annotations

import pytest

from gritlm.errors import InputError
from gritlm.prompts import RAG_FORMS
from gritlm.rag.plan import PromptAssembler
from gritlm.train.data import rag_samples
from gritlm.train.data.examples import RagExample
from tests.rag.conftest import QUESTION

CACHED = [mode for mode in RAG_FORMS if mode != "none"]


@pytest.fixture
def assembler(grit) -> PromptAssembler:
    return PromptAssembler(grit)


def whole(plan) -> list[int]:
    return [i for part in plan.parts for i in part.ids[part.cut :]] + list(plan.ids)


@pytest.mark.parametrize("mode", RAG_FORMS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_ids_are_those_that_training_reads(assembler, grit, hits, mode, count):
    texts = [hit.passage.embedded for hit in reversed(hits[:count])]
    row = RagExample(QUESTION, tuple(texts), "red")
    form = rag_samples.SampleForm(
        mode, "bidirectional", query_instruction=grit.settings.query_instruction, read_again=0
    )
    trained = rag_samples.sample(assembler.tokens, row, form, documents=texts, max_length=999)
    seen = [i for at, i in enumerate(trained.ids) if at not in trained.unseen]
    answer = len(trained.ids) - trained.trained[0][0]
    plan = assembler.plan(mode, QUESTION, hits[:count], max_new_tokens=10)
    assert whole(plan) == seen[:-answer]
    assert whole(plan).count(grit.tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("mode", RAG_FORMS)
def test_the_best_passage_stands_last(assembler, hits, mode):
    plan = assembler.plan(mode, QUESTION, hits, max_new_tokens=10)
    assert [hit.rank for hit in plan.hits] == [5, 4, 3, 2, 1]


@pytest.mark.parametrize("mode", CACHED)
def test_read_afresh_it_is_the_same_prompt(assembler, hits, mode):
    plan = assembler.plan(mode, QUESTION, hits, max_new_tokens=10)
    fresh = assembler.fresh(plan)
    assert not fresh.parts
    assert list(fresh.ids) == whole(plan)
    assert fresh.tokens == plan.tokens


@pytest.mark.parametrize("mode", RAG_FORMS)
def test_passages_without_room_are_dropped_the_worst_first(assembler, hits, mode):
    sizes = [assembler.plan(mode, QUESTION, hits[:n], max_new_tokens=1).tokens for n in range(1, 6)]
    room = 1024 - sizes[2]
    plan = assembler.plan(mode, QUESTION, hits, max_new_tokens=room)
    assert [hit.rank for hit in plan.hits] == [3, 2, 1]
    assert [hit.rank for hit in plan.dropped] == [5, 4]


def test_a_question_without_room_is_refused(assembler, hits):
    with pytest.raises(InputError, match=r"the model takes 1024, of which 10 are kept"):
        assembler.plan("doc", "word " * 2000, hits, max_new_tokens=10)
