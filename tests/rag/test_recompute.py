"""Reading tokens of blocks again: all of them is the plain prompt, some are between."""

from __future__ import annotations

import pytest
import torch

from gritlm.errors import InputError
from gritlm.lm.generator import prefill, prefix_cache
from gritlm.lm.unified import UnifiedLM
from gritlm.rag.reuse import recompute
from gritlm.rag.reuse.recompute import Recompute
from gritlm.rag.reuse.reuse_check import block_masked_logits, blocks_of
from tests import tiny

PARTS = [[1, *range(30, 50)], [1, *range(90, 104)], [1, *range(200, 211)]]
TAIL = [5, 6, 7, 8]
BOUND = 1e-4
ALL = Recompute(tokens=99)


@pytest.fixture(scope="module")
def lm() -> UnifiedLM:
    return UnifiedLM(tiny.model("llama"))


def mended(lm, how: Recompute, *, causal: bool = False) -> tuple[torch.Tensor, int, object]:
    blocks = blocks_of(lm, PARTS, causal=causal)
    blocks = [blocks[0], *(block[1:] for block in blocks[1:])]
    ids = [i for block in blocks for i in block.token_ids.tolist()]
    cache = prefix_cache(lm, blocks, room=len(TAIL) + 3)
    sizes = [block.tokens for block in blocks]
    again = how.positions(sizes, best=len(blocks) - 1)
    return recompute.read_again(lm, cache, again, ids=ids, tail=TAIL), len(again), cache


def plain(lm) -> torch.Tensor:
    ids = [*PARTS[0], *PARTS[1][1:], *PARTS[2][1:], *TAIL]
    return prefill(lm, prefix_cache(lm, None, room=len(ids)), ids)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens", [1, 4, 99])
def test_reading_first_tokens_again_is_one_pass_with_a_mask(lm, causal, tokens):
    ours, _, _ = mended(lm, Recompute(tokens=tokens), causal=causal)
    exact = block_masked_logits(lm, PARTS, TAIL, bos=1, causal=causal, again=tokens)
    assert (ours - exact).abs().max() < BOUND


@pytest.mark.parametrize("family", ["mistral", "gemma3", "gemma2", "qwen3"])
def test_windows_shorter_than_the_prompt_are_kept(family):
    lm = UnifiedLM(tiny.model(family))
    ours, _, _ = mended(lm, ALL, causal=True)
    assert (ours - plain(lm)).abs().max() < BOUND


def test_reading_all_but_a_causal_first_block_again_is_the_plain_prompt(lm):
    ours, count, _ = mended(lm, ALL, causal=True)
    assert count == sum(map(len, PARTS[1:])) - 2
    assert (ours - plain(lm)).abs().max() < BOUND


def test_the_cache_then_continues_as_that_of_the_plain_prompt(lm):
    _, _, cache = mended(lm, ALL, causal=True)
    ids = [*PARTS[0], *PARTS[1][1:], *PARTS[2][1:], *TAIL]
    other = prefix_cache(lm, None, room=len(ids) + 3)
    prefill(lm, other, ids)
    for token in (11, 12, 13):
        ours, theirs = (prefill(lm, each, [token]) for each in (cache, other))
        assert (ours - theirs).abs().max() < BOUND


@pytest.mark.parametrize(
    ("how", "count"), [(Recompute(tokens=4), 8), (Recompute(4, best=True), 15)]
)
def test_some_tokens_change_the_answer_and_are_as_many_as_asked(lm, how, count):
    ours, recomputed, _ = mended(lm, how)
    assert recomputed == count
    blocks = blocks_of(lm, PARTS, causal=False)
    cache = prefix_cache(lm, [blocks[0], *(block[1:] for block in blocks[1:])], room=len(TAIL))
    assert (ours - prefill(lm, cache, TAIL)).abs().max() > BOUND


@pytest.mark.parametrize(
    ("best", "positions"),
    [
        (None, [5, 6, 9, 10]),
        (0, [5, 6, 9, 10]),
        (1, [5, 6, 7, 8, 9, 10]),
        (2, [5, 6, 9, 10, 11]),
    ],
)
def test_the_block_of_the_best_passage_is_recomputed_whole_unless_it_comes_first(best, positions):
    assert Recompute(2, best=True).positions([5, 4, 3], best) == positions
    assert Recompute(2).positions([5, 4, 3], best) == [5, 6, 9, 10]


def test_values_out_of_range_are_refused():
    with pytest.raises(InputError, match="tokens is 0"):
        Recompute(tokens=0)
