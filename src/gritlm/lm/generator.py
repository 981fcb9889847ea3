"""Prefill on top of given key/value state -> tokens -> stream of text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from gritlm.errors import InputError
from gritlm.lm.inputs import at_least_one
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.sampling import Sampler
from gritlm.lm.unified import UnifiedLM


def complete(
    lm: UnifiedLM,
    ids: Sequence[int],
    *,
    kv: KVBlock | Sequence[KVBlock] | None = None,
    sampler: Sampler,
    max_new_tokens: int,
    end_ids: Collection[int] = (),
) -> Iterator[int]:
    """Token ids that follow ``kv`` and ``ids``, one at a time, without the closing end token.

    Several blocks stand one behind the other, as :meth:`KVBlock.join` puts them.

    Only the last position of the prompt gets logits, and each step writes one token into a cache
    allocated beforehand.

    Raises:
        InputError: when there is nothing to continue, or it does not fit the model.
        CacheMismatchError: when another model made ``kv``.
    """
    if not ids:
        raise InputError("the prompt has no tokens; expected at least one")
    blocks = own_blocks(lm, kv)
    held = sum(block.tokens for block in blocks)
    room = answer_room(lm, held + len(ids), max_new_tokens)
    return _steps(lm, list(ids), blocks, sampler, room, frozenset(end_ids))


def answer_room(lm: UnifiedLM, prompt: int, wanted: int) -> int:
    """Tokens an answer may have.

    Args:
        prompt: tokens of all that stands before it.

    Raises:
        InputError: when the prompt fills the model.
    """
    at_least_one(wanted, name="max_new_tokens")
    limit = lm.max_positions
    if limit is not None and prompt >= limit:
        raise InputError(f"the prompt has {prompt} tokens, the model takes {limit} with the answer")
    return wanted if limit is None else min(wanted, limit - prompt)


def _steps(
    lm: UnifiedLM,
    ids: list[int],
    kv: Sequence[KVBlock],
    sampler: Sampler,
    room: int,
    end_ids: frozenset[int],
) -> Iterator[int]:
    cache = prefix_cache(lm, kv, room=len(ids) + room)
    logits_V = prefill(lm, cache, ids)
    yield from decode(lm, cache, logits_V, sampler=sampler, room=room, end_ids=end_ids)


@torch.inference_mode()
def prefill(lm: UnifiedLM, cache: Cache, ids: Sequence[int]) -> Tensor:
    """Read ``ids`` behind what the cache holds -> logits of what comes next (V,)."""
    return lm.logits(torch.tensor([ids], device=lm.device), cache=cache, keep=1)[0, -1]


def decode(
    lm: UnifiedLM,
    cache: Cache,
    logits_V: Tensor,
    *,
    sampler: Sampler,
    room: int,
    end_ids: Collection[int],
) -> Iterator[int]:
    """Tokens that follow what the cache holds, at most ``room``, without the closing end token."""
    for step in range(room):
        token = sampler(logits_V)
        if token in end_ids:
            return
        yield token
        if step + 1 < room:
            # Inference mode is left at each yield: it belongs to the thread, which the caller uses.
            logits_V = prefill(lm, cache, [token])


def own_blocks(lm: UnifiedLM, kv: KVBlock | Sequence[KVBlock] | None) -> list[KVBlock]:
    """The blocks handed in; what is no block of this model is refused.

    Raises:
        InputError: for another kind of object.
        CacheMismatchError: when another model made one.
    """
    if kv is None:
        return []
    blocks = [kv] if isinstance(kv, KVBlock) else list(kv)
    for block in blocks:
        require_block(lm, block)
    return blocks


def require_block(lm: UnifiedLM, kv: object) -> None:
    """Refuse what is no block of this model.

    Raises:
        InputError: for another kind of object, such as the list that ``encode`` returns.
        CacheMismatchError: when another model made it.
    """
    if not isinstance(kv, KVBlock):
        raise InputError(f"kv is {type(kv).__name__}; expected one KVBlock, e.g. blocks[0]")
    lm.require_own(kv)


@torch.no_grad()
def prefix_cache(
    lm: UnifiedLM, kv: KVBlock | Sequence[KVBlock] | None, *, room: int, rows: int = 1
) -> Cache:
    """A cache that begins with ``kv`` at position 0, in the model's format and on its device.

    Keys and values are copied once, to where they are used.
    """
    blocks = [block for block in own_blocks(lm, kv) if block.tokens]
    cache = lm.new_cache(sum(block.tokens for block in blocks) + room)
    held = 0
    devices = lm.layer_devices() if blocks else None
    for block in blocks:
        here = block.move(held).to(dtype=lm.dtype, device=lm.device)
        here.fill(cache, rows=rows, devices=devices)
        held += block.tokens
    return cache


class TextStream:
    """Token ids -> pieces of text that never split a character or show part of a stop string.

    Attributes:
        stopped: whether a stop string has come.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop = [s for s in stop if s]
        self._ids: list[int] = []
        # Tokens before `_context` are never decoded again; those up to `_done` are already text.
        self._context = self._done = 0
        self._held = ""
        self.stopped = False

    def pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """Text as it becomes certain; ends at the first stop string, which is not shown."""
        for token in tokens:
            if piece := self.push(token):
                yield piece
            if self.stopped:
                return
        if piece := self.close():
            yield piece

    @property
    def held(self) -> int:
        """Characters that are there and not certain yet."""
        return len(self._held)

    def push(self, token: int) -> str:
        """What one more token makes certain; may be empty. Nothing follows when ``stopped``."""
        self._ids.append(token)
        self._held += self._new_text()
        return self._released(len(self._held) - self._maybe_stop())

    def close(self) -> str:
        """What is left when no token follows."""
        self._held += self._new_text(last=True)
        return self._released(len(self._held))

    def _released(self, size: int) -> str:
        """The first characters that were held back, at most up to a stop string."""
        cut = self._stops_at()
        self.stopped = cut is not None
        size = size if cut is None else cut
        piece = self._held[:size]
        self._held = self._held[size:]
        return piece

    def _new_text(self, *, last: bool = False) -> str:
        """Text since the last call; nothing while a character is still incomplete."""
        known = self._decode(self._ids[self._context : self._done])
        text = self._decode(self._ids[self._context :])
        if text.endswith("\ufffd") and not last:
            return ""
        self._context, self._done = self._done, len(self._ids)
        return text[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _stops_at(self) -> int | None:
        found = [at for s in self.stop if (at := self._held.find(s)) >= 0]
        return min(found, default=None)

    def _maybe_stop(self) -> int:
        """How many characters at the end may turn out to be the beginning of a stop string."""
        longest = max((len(s) for s in self.stop), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(s.startswith(self._held[-size:]) for s in self.stop):
                return size
        return 0
