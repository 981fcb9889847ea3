"""KV slots of running sequences: one batched memory, or a separate cache for each sequence.

Shapes: B sequences of a decode step, V vocabulary.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from gritlm.lm.generator import prefill, prefill_with_logits
from gritlm.lm.kv.slot_memory import SlotMemory, obstacle
from gritlm.lm.unified import UnifiedLM
from gritlm.serve.engine.slot_table import UNKNOWN, KVSlot, SlotTable

if TYPE_CHECKING:
    from gritlm.rag.fusion import MixedRows
    from gritlm.rag.prefill import PrefilledPrompt

log = logging.getLogger(__name__)


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

    def adopt(self, slot: KVSlot, begun: PrefilledPrompt) -> None:
        """Take over the KV state of a prompt that other code has prefilled.

        Args:
            slot: an assigned, empty slot.
            begun: the prefilled prompt.
        """

    def step(self, slots: Sequence[KVSlot], tokens: Sequence[int]) -> Tensor:
        """Append one token to each slot and return the logits of the last positions (B, V).

        Args:
            slots: slots of the running sequences.
            tokens: token ids, one for each slot.
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


class _SlotsOfModel(ABC):
    """The slot table of a model, with the figures of both kinds of slots.

    An answer that several rows generate together keeps its own cache; each of its steps is a pass
    over its rows, between the step of the other sequences and the next one.
    """

    def __init__(self, lm: UnifiedLM, slots: int, capacity: int) -> None:
        self._lm = lm
        self.capacity = capacity
        self._table = SlotTable(slots)
        self._mixed: dict[int, MixedRows] = {}

    def adopt(self, slot: KVSlot, begun: PrefilledPrompt) -> None:
        slot.ids = [UNKNOWN] * int(begun.cache.get_seq_length())
        if begun.mixed is None:
            self._adopt(slot, begun)
        else:
            self._mixed[slot.number] = begun.mixed

    def step(self, slots: Sequence[KVSlot], tokens: Sequence[int]) -> Tensor:
        rows: dict[int, Tensor] = {}
        for row, (slot, token) in enumerate(zip(slots, tokens, strict=True)):
            if slot.number in self._mixed:
                rows[row] = self._mixed[slot.number].step(token)
        alone = [row for row in range(len(slots)) if row not in rows]
        if alone:
            logits_BV = self._step([slots[row] for row in alone], [tokens[row] for row in alone])
            if not rows:
                return logits_BV
            rows.update(zip(alone, logits_BV.float(), strict=True))
        for row in set(rows) - set(alone):
            slots[row].ids.append(tokens[row])
        return torch.stack([rows[row] for row in range(len(slots))])

    def close(self, slot: KVSlot, *, sound: bool = True) -> None:
        self._mixed.pop(slot.number, None)
        self._close(slot, sound=sound)

    @abstractmethod
    def _adopt(self, slot: KVSlot, begun: PrefilledPrompt) -> None: ...

    @abstractmethod
    def _step(self, slots: Sequence[KVSlot], tokens: Sequence[int]) -> Tensor: ...

    @abstractmethod
    def _close(self, slot: KVSlot, *, sound: bool) -> None: ...

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

    def _adopt(self, slot: KVSlot, begun: PrefilledPrompt) -> None:
        self._memory.adopt(slot.number, begun.cache, len(slot.ids))

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

    def _close(self, slot: KVSlot, *, sound: bool) -> None:
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

    def _adopt(self, slot: KVSlot, begun: PrefilledPrompt) -> None:
        self._caches[slot.number] = begun.cache

    def _step(self, slots: Sequence[KVSlot], tokens: Sequence[int]) -> Tensor:
        rows = []
        for slot, token in zip(slots, tokens, strict=True):
            rows.append(prefill(self._lm, self._caches[slot.number], [token]))
            slot.ids.append(token)
        return torch.stack(rows)

    def _close(self, slot: KVSlot, *, sound: bool) -> None:
        del sound
        self._caches.pop(slot.number, None)
        self._table.forget(slot)
        self._table.free(slot)
