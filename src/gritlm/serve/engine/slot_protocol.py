"""Interface of the KV slots of running sequences, as the engine uses them.

Shapes: S positions of a pass, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from gritlm.lm.media.senses import MediaTokens
from gritlm.lm.unified import UnifiedLM
from gritlm.serve.engine.slot_table import KVSlot

# Logits (V,) of the next token of a sequence, or (S, V) of several; or the error of its step.
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

    def open(
        self, ids: Sequence[int], lm: UnifiedLM | None = None, owner: str = ""
    ) -> KVSlot | None:
        """Assign a slot that holds as many first tokens of a prompt as possible.

        Args:
            ids: token ids of the prompt; at least one is left to prefill.
            lm: model that reads the prompt and generates from it; None for that of the slots.
            owner: owner of the request, whose tokens alone are reused.

        Returns:
            The slot, or None while all slots are busy.
        """

    def open_empty(self, count: int, lm: UnifiedLM | None = None) -> list[KVSlot] | None:
        """Assign empty slots: as many as wanted, or None while fewer are free.

        Args:
            count: number of slots.
            lm: model that generates from them; None for that of the slots.
        """

    def prefill(
        self,
        slot: KVSlot,
        ids: Sequence[int],
        *,
        room: int,
        every: bool = False,
        media: Sequence[MediaTokens] = (),
    ) -> Tensor:
        """Append S prompt tokens to a slot and return their logits.

        Args:
            slot: an assigned slot.
            ids: token ids that follow those of the slot.
            room: most tokens that may follow.
            every: whether to return the logits of every position (S, V), instead of the logits
                of the last position (V,).
            media: images and sounds of these tokens, each of them complete; not with ``every``.
        """

    def prefills_together(self, lm: UnifiedLM | None = None) -> bool:
        """Return whether :meth:`prefill_together` takes the slots of a model.

        Args:
            lm: the model; None for the model of the slots.
        """

    def prefill_together(
        self, slots: Sequence[KVSlot], ids: Sequence[Sequence[int]], *, every: bool = False
    ) -> Sequence[StepResult]:
        """Append tokens to several slots of one model in one pass.

        Args:
            slots: assigned slots.
            ids: token ids for each of them.
            every: as in :meth:`prefill`.

        Returns:
            The result of :meth:`prefill` for each slot, or its error.
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
