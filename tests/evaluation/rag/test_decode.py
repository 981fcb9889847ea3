"""Answers written together equal those written one by one."""

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicCache

from gritlm.evaluation.rag import decode as writing
from gritlm.evaluation.rag.decode import PromptToRead, replies
from gritlm.lm.generator import decode, decode_pass, prefill, prefix_cache
from gritlm.lm.sampling import SamplingParams
from gritlm.lm.unified import UnifiedLM
from gritlm.rag.reuse.recompute import FIRST, read_again
from tests import tiny

NEW = 12


class Dynamic(UnifiedLM):
    """Its cache is not ours, as that of models with other states than keys and values."""

    def new_cache(self, capacity):
        return DynamicCache(config=self.config)


def ids(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(3, 400, (n,), generator=generator).tolist() for n in lengths]


@torch.inference_mode()
def prompts(lm: UnifiedLM) -> list[PromptToRead]:
    """Of several lengths; some behind the blocks of one or two documents."""
    one, other, *tails = ids(9, 14, 5, 23, 11, 1)
    documents = torch.tensor(one + other)
    blocks = lm.hidden_and_blocks(documents, [len(one), len(other)])[1]
    return [
        PromptToRead(tails[0]),
        PromptToRead(tails[1]),
        PromptToRead(tails[2], blocks[:1]),
        PromptToRead(tails[3], blocks),
    ]


@torch.inference_mode()
def alone(lm: UnifiedLM, reading: PromptToRead, ends: set[int]) -> list[int]:
    cache = prefix_cache(lm, reading.blocks, room=len(reading.ids) + NEW)
    held = [i for block in reading.blocks for i in block.token_ids.tolist()]
    positions = FIRST.positions([block.tokens for block in reading.blocks], best=None)
    if positions:
        logits_V = read_again(lm, cache, positions, ids=held, tail=reading.ids)
    else:
        logits_V = prefill(lm, cache, reading.ids)
    greedy = SamplingParams().sampler()
    return list(decode(decode_pass(lm, cache), logits_V, sampler=greedy, room=NEW, end_ids=ends))


def together(lm: UnifiedLM, readings: list[PromptToRead], ends: set[int]) -> list[list[int]]:
    return [r.ids for r in replies(lm, readings, end_ids=ends, max_new_tokens=NEW)]


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "gemma2", "phi", "smollm3"])
def test_together_they_write_what_each_writes_alone(family):
    """Mistral and the Gemmas have windows shorter than a prompt."""
    lm = UnifiedLM(tiny.model(family))
    readings = prompts(lm)
    expected = [alone(lm, reading, set()) for reading in readings]
    assert together(lm, readings, set()) == expected
    assert len({tuple(written) for written in expected}) > 1


def test_each_ends_at_its_own_end_token():
    lm = UnifiedLM(tiny.model())
    readings = prompts(lm)
    whole = [alone(lm, reading, set()) for reading in readings]
    ends = {whole[0][0], whole[1][4]}
    expected = [alone(lm, reading, ends) for reading in readings]
    assert expected[0] == []
    assert together(lm, readings, ends) == expected


def test_where_no_rows_can_be_put_together_each_is_written_alone():
    lm = UnifiedLM(tiny.model())
    readings, ends = prompts(lm)[:3], {alone(lm, prompts(lm)[0], set())[0]}
    expected = together(lm, readings, ends)
    assert together(Dynamic(lm.causal), readings, ends) == expected
    assert expected[0] == []


def test_more_than_is_written_together_is_taken_in_halves(monkeypatch):
    lm = UnifiedLM(tiny.model())
    readings, sizes, whole = prompts(lm), [], writing._decode_batch

    def counting(lm, readings, ends, new):
        sizes.append(len(readings))
        return whole(lm, readings, ends, new)

    monkeypatch.setattr(writing, "_decode_batch", counting)
    expected = together(lm, readings, set())
    monkeypatch.setattr(writing, "MOST_BYTES", 1)
    assert together(lm, readings, set()) == expected
    assert sizes == [4, 1, 1, 1, 1]


def test_the_time_to_the_first_token_is_each_rows_own():
    lm = UnifiedLM(tiny.model())
    found = replies(lm, prompts(lm), end_ids=set(), max_new_tokens=2)
    assert all(0 < reply.first_token_s < 60 for reply in found)
