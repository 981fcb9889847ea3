"""KV slots of running sequences: one batched memory, or a separate cache for each sequence.

Shapes: B sequences of a decode step, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from gritlm.lm.generator import prefill, prefill_with_logits
from gritlm.lm.kv.slot_memory import SlotMemory, obstacle
from gritlm.lm.unified import UnifiedLM
from gritlm.serve.engine.slot_table import UNKNOWN, KVSlot, SlotTable

log = logging.getLogger(__name__)


# Logits (V,) of the next token of a sequence, or the error of its step.
StepResult = Tensor | Exception


class KVSlots(Protocol):
    """Keys and values of running sequences, a slot for each.

    Attributes:
        whole: whether a prompt has to be prefilled in one pass.
        capacity: most tokens of a slot.
        tokens: tokens held for running sequences.
        slots: number of slots.
    """

    whole: bool
    capacity: int

    @property
    def tokens(self) -> int: ...

    @property
    def slots(self) -> int: ...

    def open(self, ids: Sequence[int]) -> KVSlot | None:
        """Assign a slot that holds as many first tokens of a prompt as possible.

        Args:
            ids: token ids of the prompt; at least one is left to prefill.

        Returns:
            The slot, or None while all slots are busy.
        """

    def open_empty(self, count: int) -> list[KVSlot] | None:
        """Assign empty slots: as many as wanted, or None while fewer are free."""

    def prefill(
        self, slot: KVSlot, ids: Sequence[int], *, room: int, every: bool = False
    ) -> Tensor:
        """Append S prompt tokens to a slot and return their logits.

        Args:
            slot: an assigned slot.
            ids: token ids that follow those of the slot.
            room: most tokens that may follow.
            every: whether to return the logits of every position (S, V), instead of those of the
                last one (V,).
        """

    def adopt(self, slot: KVSlot, cache: Any) -> None:
        """Take over the KV state of a prompt that other code has prefilled.

        Args:
            slot: an assigned, empty slot.
            cache: the state, of a single row.
        """

    def step(self, slots: Sequence[KVSlot], tokens: Sequence[int]) -> Sequence[StepResult]:
        """Append one token to each slot.

        Args:
            slots: slots of the running sequences.
            tokens: token ids, one for each slot.

        Returns:
            The logits of the last position of each slot, or the error of its step.
        """

    def drop(self, slot: KVSlot, tokens: int) -> None:
        """Remove the last tokens of a slot, where prompts need not be prefilled in one pass.

        Args:
            slot: an assigned slot.
            tokens: number of tokens to remove.
        """

    def close(self, slot: KVSlot, *, sound: bool = True) -> None:
        """Free the slot of a sequence that has ended.

        Args:
            slot: the slot.
            sound: False when its keys and values are not valid and must not be reused.
        """


def allocate_kv_slots(lm: UnifiedLM, slots: int, capacity: int) -> KVSlots:
    """Allocate batched slots where the model can decode in them, else separate caches.

    Args:
        lm: a model with an LM head.
        slots: number of slots.
        capacity: most tokens of a slot.
    """
    reason = obstacle(lm)
    if reason is None:
        return BatchedSlots(lm, slots, capacity)
    log.warning("sequences are decoded one at a time, which is slower: %s", reason)
    return SeparateSlots(lm, slots, capacity)


class _SlotsOfModel:
    """The slot table of a model, with the figures of both kinds of slots."""

    def __init__(self, lm: UnifiedLM, slots: int, capacity: int) -> None:
        self._lm = lm
        self.capacity = capacity
        self._table = SlotTable(slots)

    def open_empty(self, count: int) -> list[KVSlot] | None:
        return self._table.take_empty(count)

    def drop(self, slot: KVSlot, tokens: int) -> None:
        del slot.ids[len(slot.ids) - tokens :]

    @property
    def tokens(self) -> int:
        return self._table.busy_tokens

    @property
    def slots(self) -> int:
        return len(self._table)


class BatchedSlots(_SlotsOfModel):
    """All slots in one memory: a decode step reads the weights once for all sequences."""

    whole = False

    def __init__(self, lm: UnifiedLM, slots: int, capacity: int) -> None:
        super().__init__(lm, slots, capacity)
        self._memory = SlotMemory(lm, slots, capacity)

    def open(self, ids: Sequence[int]) -> KVSlot | None:
        assignment = self._table.take(ids)
        if assignment is None:
            return None
        source = assignment.source
        if source is not None:
            self._memory.copy(source.number, assignment.slot.number, assignment.tokens)
        return assignment.slot

    def prefill(
        self, slot: KVSlot, ids: Sequence[int], *, room: int, every: bool = False
    ) -> Tensor:
        del room  # a slot has its full capacity from the beginning
        cache = self._memory.cache(slot.number, len(slot.ids))
        logits = prefill_with_logits if every else prefill
        found = logits(self._lm, cache, ids)
        slot.ids += ids
        return found

    def adopt(self, slot: KVSlot, cache: Any) -> None:
        slot.ids = _unknown_ids(cache)
        self._memory.adopt(slot.number, cache, len(slot.ids))

    def step(self, slots: Sequence[KVSlot], tokens: Sequence[int]) -> Sequence[StepResult]:
        try:
            return list(self._step(slots, tokens))
        except Exception as error:
            if len(slots) == 1:
                return [error]
            log.warning("a step of %d sequences failed (%s); each steps alone", len(slots), error)
        pairs = zip(slots, tokens, strict=True)
        return [self.step([slot], [token])[0] for slot, token in pairs]

    def _step(self, slots: Sequence[KVSlot], tokens: Sequence[int]) -> Tensor:
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
            self._table.forget(slot)
            self._memory.clear(slot.number)
        self._table.free(slot)


class SeparateSlots(_SlotsOfModel):
    """A cache of the model's own kind for each sequence; none of it is reused by later prompts."""

    whole = True

    def __init__(self, lm: UnifiedLM, slots: int, capacity: int) -> None:
        super().__init__(lm, slots, capacity)
        self._caches: dict[int, Any] = {}

    def open(self, ids: Sequence[int]) -> KVSlot | None:
        assignment = self._table.take(())  # an empty prefix: no state is kept
        del ids
        return None if assignment is None else assignment.slot

    def prefill(
        self, slot: KVSlot, ids: Sequence[int], *, room: int, every: bool = False
    ) -> Tensor:
        cache = self._lm.new_cache(len(ids) + room)
        logits = prefill_with_logits if every else prefill
        found = logits(self._lm, cache, ids)
        self._caches[slot.number] = cache
        slot.ids += ids
        return found

    def adopt(self, slot: KVSlot, cache: Any) -> None:
        slot.ids = _unknown_ids(cache)
        self._caches[slot.number] = cache

    def step(self, slots: Sequence[KVSlot], tokens: Sequence[int]) -> Sequence[StepResult]:
        found: list[StepResult] = []
        for slot, token in zip(slots, tokens, strict=True):
            try:
                found.append(prefill(self._lm, self._caches[slot.number], [token]))
                slot.ids.append(token)
            except Exception as error:
                found.append(error)
        return found

    def close(self, slot: KVSlot, *, sound: bool = True) -> None:
        del sound
        self._caches.pop(slot.number, None)
        self._table.forget(slot)
        self._table.free(slot)


def _unknown_ids(cache: Any) -> list[int]:
    return [UNKNOWN] * int(cache.get_seq_length())
