"""Where the states of chats are: side by side in slots, or each in a cache of its own.

Shapes: B chats of a step, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from gritlm.lm.generator import prefill
from gritlm.lm.kv.slot_memory import SlotMemory, obstacle
from gritlm.lm.unified import UnifiedLM
from gritlm.serve.engine.slot_table import UNKNOWN, KVSlot, SlotTable

if TYPE_CHECKING:
    from gritlm.rag.answer import PrefilledPrompt

log = logging.getLogger(__name__)


class KVSlots(Protocol):
    """States of chats, each in a slot.

    Attributes:
        whole: a prompt has to be read in one pass.
        capacity: tokens that a slot takes.
        tokens: held for all chats that are not over.
    """

    whole: bool
    capacity: int

    @property
    def tokens(self) -> int: ...

    @property
    def slots(self) -> int: ...

    def open(self, ids: Sequence[int]) -> KVSlot | None:
        """A slot that holds as many first tokens of a prompt as are there; None when all are busy.

        At least one token of a prompt is left to read.
        """

    def read(self, slot: KVSlot, ids: Sequence[int], *, room: int) -> Tensor:
        """Read tokens behind those that a slot holds -> logits of what comes next (V,).

        Args:
            room: tokens that follow, at most.
        """

    def adopt(self, slot: KVSlot, begun: PrefilledPrompt) -> None:
        """Go on from a prompt that somebody else has read."""

    def step(self, slots: Sequence[KVSlot], tokens: Sequence[int]) -> Tensor:
        """One token more in each slot -> logits of what comes next (B, V)."""

    def close(self, slot: KVSlot, *, sound: bool = True) -> None:
        """Its chat is over.

        Args:
            sound: False when what it holds cannot be relied on.
        """


def kv_slots(lm: UnifiedLM, slots: int, capacity: int) -> KVSlots:
    """Slots side by side where the model can be stepped so, else apart."""
    reason = obstacle(lm)
    if reason is None:
        return BatchedSlots(lm, slots, capacity)
    log.warning("chats are written one row at a time, which is slower: %s", reason)
    return SeparateSlots(lm, slots, capacity)


class _Numbered:
    """Slots of a model, and what can be told of them."""

    def __init__(self, lm: UnifiedLM, slots: int, capacity: int) -> None:
        self._lm = lm
        self.capacity = capacity
        self._slots = SlotTable(slots)

    @property
    def tokens(self) -> int:
        return self._slots.busy_tokens

    @property
    def slots(self) -> int:
        return len(self._slots)


class BatchedSlots(_Numbered):
    """All slots in one memory: a step reads the weights once for all chats."""

    whole = False

    def __init__(self, lm: UnifiedLM, slots: int, capacity: int) -> None:
        super().__init__(lm, slots, capacity)
        self._memory = SlotMemory(lm, slots, capacity)

    def open(self, ids: Sequence[int]) -> KVSlot | None:
        place = self._slots.take(ids)
        if place is None:
            return None
        if place.source is not None:
            self._memory.copy(place.source.number, place.slot.number, place.tokens)
        return place.slot

    def read(self, slot: KVSlot, ids: Sequence[int], *, room: int) -> Tensor:
        del room  # a slot has all its room from the beginning
        logits_V = prefill(self._lm, self._memory.cache(slot.number, len(slot.ids)), ids)
        slot.ids += ids
        return logits_V

    def adopt(self, slot: KVSlot, begun: PrefilledPrompt) -> None:
        tokens = int(begun.cache.get_seq_length())
        self._memory.adopt(slot.number, begun.cache, tokens)
        slot.ids = [UNKNOWN] * tokens

    def step(self, slots: Sequence[KVSlot], tokens: Sequence[int]) -> Tensor:
        order = sorted(range(len(slots)), key=lambda row: slots[row].number)
        logits_BV = self._memory.step(
            [tokens[row] for row in order],
            [slots[row].number for row in order],
            [len(slots[row].ids) for row in order],
        )
        for slot, token in zip(slots, tokens, strict=True):
            slot.ids.append(token)
        return logits_BV[sorted(range(len(order)), key=order.__getitem__)]

    def close(self, slot: KVSlot, *, sound: bool = True) -> None:
        if not sound:
            self._slots.forget(slot)
            self._memory.clear(slot.number)
        self._slots.free(slot)


class SeparateSlots(_Numbered):
    """A cache of the model's own kind for each chat; nothing of it is used again."""

    whole = True

    def __init__(self, lm: UnifiedLM, slots: int, capacity: int) -> None:
        super().__init__(lm, slots, capacity)
        self._caches: dict[int, Any] = {}

    def open(self, ids: Sequence[int]) -> KVSlot | None:
        place = self._slots.take(())  # nothing in common with any: no state is kept
        del ids
        return None if place is None else place.slot

    def read(self, slot: KVSlot, ids: Sequence[int], *, room: int) -> Tensor:
        cache = self._lm.new_cache(len(ids) + room)
        logits_V = prefill(self._lm, cache, ids)
        self._caches[slot.number] = cache
        slot.ids += ids
        return logits_V

    def adopt(self, slot: KVSlot, begun: PrefilledPrompt) -> None:
        self._caches[slot.number] = begun.cache
        slot.ids = [UNKNOWN] * int(begun.cache.get_seq_length())

    def step(self, slots: Sequence[KVSlot], tokens: Sequence[int]) -> Tensor:
        rows = []
        for slot, token in zip(slots, tokens, strict=True):
            rows.append(prefill(self._lm, self._caches[slot.number], [token]))
            slot.ids.append(token)
        return torch.stack(rows)

    def close(self, slot: KVSlot, *, sound: bool = True) -> None:
        del sound
        self._caches.pop(slot.number, None)
        self._slots.forget(slot)
        self._slots.free(slot)
