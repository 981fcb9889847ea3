"""Greedy answers to many prompts: each read by itself, then written together.

A step that writes reads all weights, for one row or for many: together costs little more than
alone. Reading is bound by arithmetic instead, gains nothing from company, and is timed row by row.

Shapes: B rows, K key/value heads, W tokens of the longest prompt, E head dimension, L positions,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from gritlm.lm.generator import complete, prefix_cache
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.kv.cache import is_preallocated
from gritlm.lm.sampling import make_sampler
from gritlm.lm.unified import UnifiedLM
from gritlm.rag.reuse.recompute import FIRST, read_behind

MOST_BYTES = 2**30  # keys and values of the rows that are written together


@dataclass(frozen=True)
class PromptToRead:
    """A prompt: blocks that were read before, the first at position 0, and ids behind them.

    The first tokens of each further block are read again with the ids, as the engine of cached RAG
    does it where nobody says otherwise.
    """

    ids: list[int]
    blocks: Sequence[KVBlock] = ()

    @property
    def tokens(self) -> int:
        return len(self.ids) + sum(block.tokens for block in self.blocks)


@dataclass(frozen=True)
class GeneratedAnswer:
    """An answer.

    Attributes:
        ids: without the closing end token.
        tokens_read: when the question came.
        first_token_s: seconds from the prompt's ids to the first token.
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
    """The likeliest continuation of each, in the order of ``readings``.

    Rows whose keys and values are more than ``MOST_BYTES`` are written in several parts.

    Args:
        readings: prompts that leave room for the answer in the model.

    Raises:
        RuntimeError: from torch, when all of it is too much for the memory.
    """
    if not _writes_together(lm):
        return [_alone(lm, reading, end_ids, max_new_tokens) for reading in readings]
    if len(readings) == 1 or _bytes(lm, readings, max_new_tokens) <= MOST_BYTES:
        return _together(lm, readings, end_ids, max_new_tokens)
    half = len(readings) // 2
    return [
        reply
        for part in (readings[:half], readings[half:])
        for reply in replies(lm, part, end_ids=end_ids, max_new_tokens=max_new_tokens)
    ]


def _writes_together(lm: UnifiedLM) -> bool:
    """Whether its cache holds nothing but keys and values that can be put side by side."""
    return is_preallocated(lm.new_cache(1))


def _bytes(lm: UnifiedLM, readings: Sequence[PromptToRead], new: int) -> int:
    longest = max(reading.tokens for reading in readings) + new
    return len(readings) * longest * lm.kv_bytes_per_token()


def _alone(
    lm: UnifiedLM, reading: PromptToRead, end_ids: Collection[int], new: int
) -> GeneratedAnswer:
    started = perf_counter()
    tokens = complete(
        lm,
        reading.ids,
        kv=reading.blocks,
        sampler=make_sampler(temperature=0.0),
        max_new_tokens=new,
        end_ids=end_ids,
    )
    first = [token for token in [next(tokens, None)] if token is not None]
    seconds = perf_counter() - started
    return GeneratedAnswer([*first, *tokens], len(reading.ids), seconds)


@torch.inference_mode()
def _together(
    lm: UnifiedLM, readings: Sequence[PromptToRead], end_ids: Collection[int], new: int
) -> list[GeneratedAnswer]:
    begun = [_begin(lm, reading) for reading in readings]
    written = [[each.token] for each in begun]
    ends = set(end_ids)
    sizes = [reading.tokens for reading in readings]
    cache = _side_by_side(lm, [each.cache for each in begun], sizes, room=new)
    mask_BL = _right_aligned(sizes).to(lm.device)
    position_B1 = torch.tensor(sizes, device=lm.device)[:, None]
    for _ in range(new - 1):
        if all(ends & set(ids) for ids in written):
            break
        mask_BL = pad(mask_BL, (0, 1), value=1)
        logits_BV = lm.causal_for(1)(
            torch.tensor([ids[-1:] for ids in written], device=lm.device),
            attention_mask=mask_BL,
            position_ids=position_B1,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        for ids, token in zip(written, logits_BV.argmax(dim=-1).tolist(), strict=True):
            ids.append(token)
        position_B1 = position_B1 + 1
    return [
        GeneratedAnswer(_ended(ids, ends), each.tokens_read, each.seconds)
        for ids, each in zip(written, begun, strict=True)
    ]


@dataclass(frozen=True)
class _Begun:
    """A prompt that was read: its cache, and the first token of the answer."""

    cache: Any
    token: int
    tokens_read: int
    seconds: float


def _begin(lm: UnifiedLM, reading: PromptToRead) -> _Begun:
    started = perf_counter()
    # Room for nothing more: the keys and values move on to the cache of all rows.
    cache = prefix_cache(lm, reading.blocks, room=len(reading.ids))
    logits_V, again = read_behind(lm, cache, reading.blocks, reading.ids, FIRST)
    token = int(logits_V.argmax())
    return _Begun(cache, token, again.tokens + len(reading.ids), perf_counter() - started)


def _side_by_side(lm: UnifiedLM, caches: Sequence[Any], sizes: Sequence[int], *, room: int) -> Any:
    """One cache of all rows, padded on the left to (B, K, W, E)."""
    width = max(sizes)
    made = lm.new_cache(width + room)
    for number in range(len(made.layers)):
        layers = [cache.layers[number] for cache in caches]
        keys_BKWE = _stacked([layer.keys for layer in layers], sizes, width)
        values_BKWE = _stacked([layer.values for layer in layers], sizes, width)
        made.update(keys_BKWE, values_BKWE, number)
    return made


def _stacked(buffers: Sequence[Tensor], sizes: Sequence[int], width: int) -> Tensor:
    rows = zip(buffers, sizes, strict=True)
    return torch.cat([pad(buffer[:, :, :size], (0, 0, width - size, 0)) for buffer, size in rows])


def _right_aligned(sizes: Sequence[int]) -> Tensor:
    """(B, W): 1 where a row holds a token."""
    width = max(sizes)
    return (torch.arange(width) >= width - torch.tensor(sizes)[:, None]).long()


def _ended(ids: list[int], ends: set[int]) -> list[int]:
    """What comes before the first end token."""
    return ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))]
