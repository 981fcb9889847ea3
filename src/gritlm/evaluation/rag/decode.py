"""Greedy decoding of many prompts: each prefilled on its own, all decoded in one batch.

A decode step reads all weights whether the batch has one row or many, so a batch costs little more
than a single row. Prefill is bound by arithmetic and gains nothing from a batch; it is timed row
by row.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from gritlm.lm.generator import complete, prefill, prefix_cache
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.kv.cache import is_preallocated
from gritlm.lm.kv.row_batch import RowBatch
from gritlm.lm.sampling import SamplingParams
from gritlm.lm.unified import UnifiedLM
from gritlm.rag.reuse.recompute import FIRST, read_again

MOST_BYTES = 2**30  # most bytes of keys and values in a batch


@dataclass(frozen=True)
class PromptToRead:
    """A prompt of cached KV blocks, the first at position 0, followed by token ids.

    The first tokens of each block after the first are recomputed together with the ids, as the RAG
    engine does by default.

    Attributes:
        ids: token ids after the blocks.
        blocks: KV blocks at the beginning of the prompt.
    """

    ids: list[int]
    blocks: Sequence[KVBlock] = ()

    @property
    def tokens(self) -> int:
        """Number of tokens of the whole prompt."""
        return len(self.ids) + sum(block.tokens for block in self.blocks)


@dataclass(frozen=True)
class GeneratedAnswer:
    """An answer with the cost of its prompt.

    Attributes:
        ids: token ids of the answer, without the end token.
        tokens_read: number of tokens prefilled for the question; cached ones do not count.
        first_token_s: time to the first token, in seconds.
    """

    ids: list[int]
    tokens_read: int
    first_token_s: float


def replies(
    lm: UnifiedLM,
    readings: Sequence[PromptToRead],
    *,
    end_ids: Collection[int],
    max_new_tokens: int,
) -> list[GeneratedAnswer]:
    """Generate the greedy continuation of each prompt.

    Prompts whose keys and values exceed ``MOST_BYTES`` are split into several batches.

    Args:
        lm: model with its LM head.
        readings: prompts, each of which leaves room for the answer in the model's context.
        end_ids: token ids that end an answer.
        max_new_tokens: largest number of tokens of an answer.

    Returns:
        The answers, in the order of ``readings``.

    Raises:
        RuntimeError: from torch, if a batch does not fit in memory.
    """
    if not _can_batch(lm):
        return [_decode_single(lm, reading, end_ids, max_new_tokens) for reading in readings]
    if len(readings) == 1 or _kv_bytes(lm, readings, max_new_tokens) <= MOST_BYTES:
        return _decode_batch(lm, readings, end_ids, max_new_tokens)
    middle = len(readings) // 2
    return [
        reply
        for part in (readings[:middle], readings[middle:])
        for reply in replies(lm, part, end_ids=end_ids, max_new_tokens=max_new_tokens)
    ]


def _can_batch(lm: UnifiedLM) -> bool:
    """Return whether the model's cache holds only keys and values, which can be concatenated."""
    return is_preallocated(lm.new_cache(1))


def _kv_bytes(lm: UnifiedLM, readings: Sequence[PromptToRead], new: int) -> int:
    longest = max(reading.tokens for reading in readings) + new
    return len(readings) * longest * lm.kv_bytes_per_token()


def _decode_single(
    lm: UnifiedLM, reading: PromptToRead, end_ids: Collection[int], new: int
) -> GeneratedAnswer:
    started = perf_counter()
    tokens = complete(
        lm,
        reading.ids,
        kv=reading.blocks,
        sampler=SamplingParams().sampler(),
        max_new_tokens=new,
        end_ids=end_ids,
    )
    first = [token for token in [next(tokens, None)] if token is not None]
    seconds = perf_counter() - started
    return GeneratedAnswer([*first, *tokens], len(reading.ids), seconds)


@torch.inference_mode()
def _decode_batch(
    lm: UnifiedLM, readings: Sequence[PromptToRead], end_ids: Collection[int], new: int
) -> list[GeneratedAnswer]:
    begun = [_prefill(lm, reading) for reading in readings]
    written = [[each.token] for each in begun]
    ends = set(end_ids)
    batch = RowBatch(lm, [each.cache for each in begun], room=new)
    for _ in range(new - 1):
        if all(ends & set(ids) for ids in written):
            break
        logits_BV = batch.prefill_rows([ids[-1:] for ids in written])[:, -1]
        for ids, token in zip(written, logits_BV.argmax(dim=-1).tolist(), strict=True):
            ids.append(token)
    return [
        GeneratedAnswer(_cut_at_end(ids, ends), each.tokens_read, each.seconds)
        for ids, each in zip(written, begun, strict=True)
    ]


@dataclass(frozen=True)
class _Prefilled:
    """A prefilled prompt: its cache, and the first token of the answer."""

    cache: Any
    token: int
    tokens_read: int
    seconds: float


def _prefill(lm: UnifiedLM, reading: PromptToRead) -> _Prefilled:
    started = perf_counter()
    # No room for the answer is needed: the keys and values are copied to the cache of the batch.
    cache = prefix_cache(lm, reading.blocks, room=len(reading.ids))
    ids = [i for block in reading.blocks for i in block.token_ids.tolist()]
    sizes = [block.tokens for block in reading.blocks]
    positions = FIRST.positions(sizes, best=None)
    if positions:
        logits_V = read_again(lm, cache, positions, ids=ids, tail=reading.ids)
    else:
        logits_V = prefill(lm, cache, reading.ids)
    token = int(logits_V.argmax())
    return _Prefilled(cache, token, len(positions) + len(reading.ids), perf_counter() - started)


def _cut_at_end(ids: list[int], ends: set[int]) -> list[int]:
    """Return the ids before the first end token."""
    return ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))]
