"""Table of the KV slots: the tokens that each holds, and the choice of a slot for a new prompt.

A slot keeps its tokens after its sequence has ended: a new prompt with the same first tokens is
prefilled from the first different one on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

UNKNOWN = -1  # id of a token that other code prefilled; no prompt has it


@dataclass
class KVSlot:
    """Memory for the keys and values of one sequence.

    Attributes:
        number: index of the slot.
        ids: token ids whose keys and values the slot holds.
        owner: model and owner of the request that they were computed for; no other reuses them.
        busy: whether a running sequence uses it.
        last_used: logical time at which it became free; larger is later.
        offset: position of the next token, minus the number of tokens. It is 0 unless the tokens of
            an image share positions, as with M-RoPE.
    """

    number: int
    ids: list[int] = field(default_factory=list)
    owner: object = None
    busy: bool = False
    last_used: int = 0
    offset: int = 0


@dataclass(frozen=True)
class SlotAssignment:
    """A slot for a new prompt.

    Attributes:
        slot: the slot, marked busy.
        tokens: first tokens of the prompt that need no prefill.
        source: slot whose first ``tokens`` are to be copied; None when ``slot`` holds them.
    """

    slot: KVSlot
    tokens: int
    source: KVSlot | None


class SlotTable:
    """All slots; the idle slot that was used least recently is reused first."""

    def __init__(self, count: int) -> None:
        self._slots = [KVSlot(number) for number in range(count)]
        self._clock = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def busy_tokens(self) -> int:
        """Tokens held for running sequences."""
        return sum(len(slot.ids) for slot in self._slots if slot.busy)

    def take(self, ids: Sequence[int], owner: object = None) -> SlotAssignment | None:
        """Assign a slot to a prompt and mark it busy; None while all slots are busy.

        At least one token of the prompt is left to prefill, because its logits are needed. Tokens
        of another owner are never reused: the time to the first token would tell what they are.

        Args:
            ids: token ids of the prompt.
            owner: model and owner of the request.
        """
        idle = [slot for slot in self._slots if not slot.busy]
        if not idle:
            return None
        common = [
            common_prefix(slot.ids, ids[:-1]) if slot.owner == owner else 0 for slot in self._slots
        ]
        best = max(self._slots, key=lambda slot: (common[slot.number], not slot.busy))
        tokens = common[best.number]
        oldest = min(idle, key=lambda slot: slot.last_used)
        # Another conversation with the same first words is copied from, and stays whole.
        continued = not best.busy and 2 * tokens >= len(best.ids)
        slot = best if tokens and continued else oldest
        source = best if tokens and best is not slot else None
        slot.busy = True
        slot.ids = list(ids[:tokens])
        slot.owner = owner
        slot.offset = 0
        return SlotAssignment(slot, tokens, source)

    def take_empty(self, count: int) -> list[KVSlot] | None:
        """Assign empty slots and mark them busy; None while fewer are idle."""
        idle = sorted((slot for slot in self._slots if not slot.busy), key=lambda s: s.last_used)
        if len(idle) < count:
            return None
        for slot in idle[:count]:
            slot.busy = True
            slot.ids = []
            slot.offset = 0
        return idle[:count]

    def free(self, slot: KVSlot) -> None:
        """Mark a slot idle; it keeps its tokens until it is assigned again."""
        self._clock += 1
        slot.busy = False
        slot.last_used = self._clock

    def forget(self, slot: KVSlot) -> None:
        """Drop the tokens of a slot whose keys and values are not valid."""
        slot.ids = []


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the first tokens that are the same in both."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))
