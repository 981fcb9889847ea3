"""Which tokens each slot holds, and which slot a new prompt should take.

A slot that has ended keeps its tokens: a prompt that begins with them is read from there on only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

UNKNOWN = -1  # in the place of a token that no prompt can have: of a state that somebody else read


@dataclass
class KVSlot:
    """One place for the keys and values of a text.

    Attributes:
        ids: tokens whose keys and values are there.
        busy: a chat is being read or written in it.
        last_used: larger is later.
    """

    number: int
    ids: list[int] = field(default_factory=list)
    busy: bool = False
    last_used: int = 0


@dataclass(frozen=True)
class SlotAssignment:
    """A slot for a new prompt.

    Attributes:
        tokens: of the prompt that need not be read.
        source: the slot whose first ``tokens`` are to be copied; None when they are there.
    """

    slot: KVSlot
    tokens: int
    source: KVSlot | None


class SlotTable:
    """All slots; the least recently used idle one goes first."""

    def __init__(self, count: int) -> None:
        self._all = [KVSlot(number) for number in range(count)]
        self._clock = 0

    def __len__(self) -> int:
        return len(self._all)

    @property
    def busy_tokens(self) -> int:
        """Tokens held for chats that are being read or written."""
        return sum(len(slot.ids) for slot in self._all if slot.busy)

    def take(self, ids: Sequence[int]) -> SlotAssignment | None:
        """A slot for this prompt, busy from now on; None while all are busy.

        At least one token of the prompt is left to read: it is what comes next that is wanted.
        """
        idle = [slot for slot in self._all if not slot.busy]
        if not idle:
            return None
        common = [_common(slot.ids, ids[:-1]) for slot in self._all]
        best = max(self._all, key=lambda slot: (common[slot.number], not slot.busy))
        tokens = common[best.number]
        oldest = min(idle, key=lambda slot: slot.last_used)
        # Another conversation with the same first words is copied from, and stays whole.
        continued = not best.busy and 2 * tokens >= len(best.ids)
        slot = best if tokens and continued else oldest
        source = best if tokens and best is not slot else None
        slot.busy = True
        slot.ids = list(ids[:tokens])
        return SlotAssignment(slot, tokens, source)

    def free(self, slot: KVSlot) -> None:
        """Its chat has ended; what it holds stays until somebody needs the slot."""
        self._clock += 1
        slot.busy = False
        slot.last_used = self._clock

    def forget(self, slot: KVSlot) -> None:
        """What it holds cannot be relied on."""
        slot.ids = []


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens are the same."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))
