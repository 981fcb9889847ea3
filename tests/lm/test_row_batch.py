"""Rows of a batch behind different KV blocks are read as single prompts are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gritlm.errors import CacheMismatchError
from gritlm.lm.generator import prefill, prefix_cache
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.kv.row_batch import RowBatch
from gritlm.lm.unified import UnifiedLM
from gritlm.rag.reuse.reuse_check import blocks_of
from tests import tiny

PASSAGES = [[1, *range(30, 50)], [1, *range(90, 99)], [1, *range(200, 213)]]
QUESTION = [5, 6, 7, 8, 9, 10]
CLOSING = [11, 12]
NEXT = [21, 22, 23]
BOUND = 1e-5


def blocks(lm: UnifiedLM, *, causal: bool = True) -> list[KVBlock | None]:
    """Blocks of three lengths, and a row without one."""
    return [*blocks_of(lm, PASSAGES, causal=causal), None]


def near(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors of logits differ by rounding only."""
    return float((ours - theirs).abs().max()) <= BOUND * max(1.0, float(theirs.abs().max()))


@torch.inference_mode()
def single(lm: UnifiedLM, block: KVBlock | None, ids: list[int]) -> Tensor:
    """Logits (Q, V) of one prompt behind one block."""
    cache = prefix_cache(lm, block, room=len(ids))
    return lm.logits(torch.tensor([ids]), cache=cache, keep=len(ids))[0]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_rows_of_a_batch_are_single_prompts(family, causal):
    """Some families have windows shorter than a block."""
    lm = UnifiedLM(tiny.model(family))
    given = blocks(lm, causal=causal)
    batch = RowBatch(lm, given, room=len(QUESTION) + len(CLOSING))
    assert batch.lengths == [21, 10, 14, 0]
    first_BQV = batch.prefill(QUESTION, keep=len(QUESTION))
    then_B1V = batch.prefill(CLOSING)
    assert then_B1V.shape[:2] == (4, 1)
    for row, block in enumerate(given):
        exact_QV = single(lm, block, QUESTION + CLOSING)
        assert near(first_BQV[row], exact_QV[: len(QUESTION)])
        assert near(then_B1V[row, 0], exact_QV[-1])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_cache_of_a_row_continues_as_that_of_a_single_prompt(family):
    lm = UnifiedLM(tiny.model(family))
    given = blocks(lm)
    room = len(CLOSING) + len(NEXT)
    for row, block in enumerate(given):
        batch = RowBatch(lm, given, room=len(QUESTION) + room)
        batch.prefill(QUESTION)
        cache = batch.row(row, room=room)
        assert cache.get_seq_length() == batch.lengths[row] + len(QUESTION)
        read = list(QUESTION)
        for ids in (CLOSING, *([token] for token in NEXT)):
            read += ids
            assert near(prefill(lm, cache, ids), single(lm, block, read)[-1])


def test_a_causal_block_and_a_question_are_the_plain_prompt():
    lm = UnifiedLM(tiny.model())
    batch = RowBatch(lm, blocks(lm), room=len(QUESTION))
    logits_BV = batch.prefill(QUESTION)[:, -1]
    for row, passage in enumerate([*PASSAGES, []]):
        assert near(logits_BV[row], single(lm, None, passage + QUESTION)[-1])


def test_what_is_hidden_by_the_padding_changes_nothing():
    lm = UnifiedLM(tiny.model("mistral"))
    given = blocks(lm)
    alone = RowBatch(lm, given[1:2], room=len(QUESTION)).prefill(QUESTION)
    among = RowBatch(lm, given, room=len(QUESTION)).prefill(QUESTION)
    assert near(among[1], alone[0])


def test_rows_without_any_block_are_the_plain_prompt():
    lm = UnifiedLM(tiny.model())
    logits_BV = RowBatch(lm, [None, None], room=len(QUESTION)).prefill(QUESTION)[:, -1]
    assert near(logits_BV[0], single(lm, None, QUESTION)[-1])
    assert torch.equal(logits_BV[0], logits_BV[1])


def test_a_block_of_another_model_is_refused():
    lm = UnifiedLM(tiny.model())
    (block,) = blocks_of(UnifiedLM(tiny.model("qwen3")), PASSAGES[:1], causal=True)
    with pytest.raises(CacheMismatchError, match="KV block"):
        RowBatch(lm, [block], room=4)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_rows_may_go_on_with_tokens_of_their_own(family):
    """Padding inside of a row is hidden, in a later pass and in a copy of the row too."""
    lm = UnifiedLM(tiny.model(family))
    given = blocks(lm)
    batch = RowBatch(lm, given, room=20)
    first = [QUESTION, QUESTION[:2], [], [*QUESTION, *CLOSING]]
    then = [CLOSING, [*CLOSING, *NEXT], NEXT, []]
    first_BSV = batch.prefill_rows(first, keep=2)
    then_BSV = batch.prefill_rows(then, keep=2)
    assert batch.tokens == [29, 17, 17, 8]
    for row, block in enumerate(given):
        exact_QV = single(lm, block, first[row] + then[row])
        size = len(first[row])
        if size:
            assert near(first_BSV[row, -2:], exact_QV[size - 2 : size])
        if then[row]:
            assert near(then_BSV[row], exact_QV[-2:])
        cache = batch.row(row, room=len(NEXT))
        assert cache.get_seq_length() == batch.tokens[row]
        exact_V = single(lm, block, first[row] + then[row] + NEXT)[-1]
        assert near(prefill(lm, cache, NEXT), exact_V)
    some = batch.select([3, 1], room=len(NEXT))
    assert some.tokens == [8, 17]
    logits_BSV = some.prefill_rows([NEXT[:1], NEXT])
    assert near(logits_BSV[0, 0], single(lm, None, first[3] + NEXT[:1])[-1])
    assert near(logits_BSV[1, 0], single(lm, given[1], first[1] + then[1] + NEXT)[-1])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_last_tokens_of_a_row_can_be_removed(family):
    """As many as each row wants, also all of a pass; the columns that no row needs are freed."""
    lm = UnifiedLM(tiny.model(family))
    given = blocks(lm)
    batch = RowBatch(lm, given, room=8)
    wrong = [40, 41, 42]
    batch.prefill_rows([QUESTION + wrong, QUESTION + wrong[:1], QUESTION, [*QUESTION, *CLOSING]])
    columns = batch.cache.get_seq_length()
    batch.drop([3, 1, 0, 0])
    assert batch.tokens == [27, 16, 20, 8]
    assert batch.cache.get_seq_length() == columns
    batch.prefill_rows([wrong[:2]] * 4)
    batch.drop([2] * 4)
    assert batch.cache.get_seq_length() == columns
    found_BSV = batch.prefill_rows([NEXT, NEXT[:2], NEXT, NEXT], keep=2)
    read = [QUESTION, QUESTION, QUESTION, [*QUESTION, *CLOSING]]
    after = [NEXT, NEXT[:2], NEXT, NEXT]
    for row, block in enumerate(given):
        exact_QV = single(lm, block, read[row] + after[row])
        assert near(found_BSV[row], exact_QV[-2:])
    some = batch.select([1, 0], room=4)
    logits_BSV = some.prefill_rows([CLOSING, CLOSING])
    for row, chosen in enumerate((1, 0)):
        exact_QV = single(lm, given[chosen], read[chosen] + after[chosen] + CLOSING)
        assert near(logits_BSV[row, -1], exact_QV[-1])
