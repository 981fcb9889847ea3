"""KV slots of running sequences: one batched memory, or a separate cache for each sequence.

Shapes: B sequences of a decode step, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from gritlm.lm.adapters.mixture import AdapterMixtures
from gritlm.lm.generator import prefill, prefill_with_logits
from gritlm.lm.kv.cache import position_offset, set_position_offset
from gritlm.lm.kv.slot_memory import SlotMemory, obstacle
from gritlm.lm.media.senses import MediaTokens
from gritlm.lm.side_by_side import read_side_by_side, reads_side_by_side
from gritlm.lm.unified import UnifiedLM
from gritlm.serve.engine.slot_protocol import KVSlots, StepResult
from gritlm.serve.engine.slot_table import UNKNOWN, KVSlot, SlotTable

log = logging.getLogger(__name__)


def allocate_kv_slots(lm: UnifiedLM, slots: int, capacity: int) -> KVSlots:
    """Allocate batched slots where the model can decode in them, else separate caches.

    Args:
        lm: a model with an LM head; models over the same base may use the slots.
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
        self._lm_of: dict[int, UnifiedLM] = {}  # by number of the slot

    def open_empty(self, count: int, lm: UnifiedLM | None = None) -> list[KVSlot] | None:
        slots = self._table.take_empty(count)
        for slot in slots or ():
            self._lm_of[slot.number] = self._lm if lm is None else lm
        return slots

    def drop(self, slot: KVSlot, tokens: int) -> None:
        del slot.ids[len(slot.ids) - tokens :]

    @property
    def tokens(self) -> int:
        return self._table.busy_tokens

    @property
    def slots(self) -> int:
        return len(self._table)


class BatchedSlots(_SlotsOfModel):
    """All slots in one memory: a decode step reads the weights once for all sequences.

    Sequences of several adapters are in one pass where the lean pass has their base, else the step
    is a pass for each of them.
    """

    whole = False

    def __init__(self, lm: UnifiedLM, slots: int, capacity: int) -> None:
        super().__init__(lm, slots, capacity)
        self._memory = SlotMemory(lm, slots, capacity)
        self._mixtures = AdapterMixtures()

    def open(
        self, ids: Sequence[int], lm: UnifiedLM | None = None, owner: str = ""
    ) -> KVSlot | None:
        lm = self._lm if lm is None else lm
        assignment = self._table.take(ids, owner=(lm, owner))
        if assignment is None:
            return None
        self._lm_of[assignment.slot.number] = lm
        source = assignment.source
        if source is not None:
            self._memory.copy(source.number, assignment.slot.number, assignment.tokens)
        return assignment.slot

    def prefill(
        self,
        slot: KVSlot,
        ids: Sequence[int],
        *,
        room: int,
        every: bool = False,
        media: Sequence[MediaTokens] = (),
    ) -> Tensor:
        del room  # a slot has its full capacity from the beginning
        cache = self._memory.cache(slot.number, len(slot.ids))
        set_position_offset(cache, slot.offset)
        found = _prefill(self._lm_of[slot.number], cache, ids, every, media)
        slot.ids += ids
        slot.offset = position_offset(cache)
        return found

    def prefills_together(self, lm: UnifiedLM | None = None) -> bool:
        return reads_side_by_side(self._lm if lm is None else lm)

    def prefill_together(
        self, slots: Sequence[KVSlot], ids: Sequence[Sequence[int]], *, every: bool = False
    ) -> Sequence[StepResult]:
        caches = [self._memory.cache(slot.number, len(slot.ids)) for slot in slots]
        keep = [len(each) if every else 1 for each in ids]
        try:
            found = read_side_by_side(self._lm_of[slots[0].number], caches, ids, keep)
        except Exception as error:
            log.warning("the prefill of %d slots failed (%s); each is alone", len(slots), error)
            return [
                self._prefill_alone(slot, each, every)
                for slot, each in zip(slots, ids, strict=True)
            ]
        for slot, each in zip(slots, ids, strict=True):
            slot.ids += each
        return found if every else [logits_1V[0] for logits_1V in found]

    def _prefill_alone(self, slot: KVSlot, ids: Sequence[int], every: bool) -> StepResult:
        try:
            return self.prefill(slot, ids, room=0, every=every)
        except Exception as error:
            return error

    def adopt(self, slot: KVSlot, cache: Any) -> None:
        slot.ids = _unknown_ids(cache)
        slot.offset = position_offset(cache)
        self._memory.adopt(slot.number, cache, len(slot.ids))

    def step(self, slots: Sequence[KVSlot], tokens: Sequence[int]) -> Sequence[StepResult]:
        try:
            return self._step(slots, tokens)
        except Exception as error:
            if len(slots) == 1:
                return [error]
            log.warning("a step of %d sequences failed (%s); each steps alone", len(slots), error)
        pairs = zip(slots, tokens, strict=True)
        return [self.step([slot], [token])[0] for slot, token in pairs]

    def _step(self, slots: Sequence[KVSlot], tokens: Sequence[int]) -> list[Tensor]:
        logits: dict[int, Tensor] = {}
        for rows, view in self._passes(slots):
            found = self._memory.step(
                [tokens[row] for row in rows],
                [slots[row].number for row in rows],
                [len(slots[row].ids) for row in rows],
                offsets=[slots[row].offset for row in rows],
                view=view,
            )
            logits.update(zip(rows, found, strict=True))
        for slot, token in zip(slots, tokens, strict=True):
            slot.ids.append(token)
        return [logits[row] for row in range(len(slots))]

    def _passes(self, slots: Sequence[KVSlot]) -> Iterator[tuple[list[int], Any]]:
        """Yield the rows of each pass of a step, in the order of their slots, and its view.

        It is one pass if all rows have the same model, or models that can be mixed.
        """
        rows = sorted(range(len(slots)), key=lambda row: slots[row].number)
        lms = [self._lm_of[slots[row].number] for row in rows]
        different = dict.fromkeys(lms)
        if len(different) > 1 and (mixed := self._mixtures.view(lms)) is not None:
            yield rows, mixed
            return
        for lm in different:
            yield [row for row, of in zip(rows, lms, strict=True) if of is lm], lm.stepping

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

    def open(
        self, ids: Sequence[int], lm: UnifiedLM | None = None, owner: str = ""
    ) -> KVSlot | None:
        del ids, owner  # an empty prefix: no state is kept
        slots = self.open_empty(1, lm)
        return None if slots is None else slots[0]

    def prefill(
        self,
        slot: KVSlot,
        ids: Sequence[int],
        *,
        room: int,
        every: bool = False,
        media: Sequence[MediaTokens] = (),
    ) -> Tensor:
        lm = self._lm_of[slot.number]
        cache = lm.new_cache(len(ids) + room)
        found = _prefill(lm, cache, ids, every, media)
        self._caches[slot.number] = cache
        slot.ids += ids
        return found

    def prefills_together(self, lm: UnifiedLM | None = None) -> bool:
        del lm
        return False

    def prefill_together(self, *_: Any, **__: Any) -> Sequence[StepResult]:
        raise AssertionError("a prompt with a cache of its own is prefilled alone")

    def adopt(self, slot: KVSlot, cache: Any) -> None:
        slot.ids = _unknown_ids(cache)
        self._caches[slot.number] = cache

    def step(self, slots: Sequence[KVSlot], tokens: Sequence[int]) -> Sequence[StepResult]:
        found: list[StepResult] = []
        for slot, token in zip(slots, tokens, strict=True):
            try:
                lm = self._lm_of[slot.number]
                found.append(prefill(lm, self._caches[slot.number], [token]))
                slot.ids.append(token)
            except Exception as error:
                found.append(error)
        return found

    def close(self, slot: KVSlot, *, sound: bool = True) -> None:
        del sound
        self._caches.pop(slot.number, None)
        self._table.forget(slot)
        self._table.free(slot)


def _prefill(
    lm: UnifiedLM, cache: Any, ids: Sequence[int], every: bool, media: Sequence[MediaTokens]
) -> Tensor:
    if every:
        return prefill_with_logits(lm, cache, ids)
    return prefill(lm, cache, ids, media=media)


def _unknown_ids(cache: Any) -> list[int]:
    return [UNKNOWN] * int(cache.get_seq_length())
