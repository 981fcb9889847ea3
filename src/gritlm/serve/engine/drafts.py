"""Drafts of running sequences: which of them a pass verifies, and the pass itself.

Shapes: S tokens of a draft, and the one before; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

from gritlm.lm.gritlm import GritLM
from gritlm.lm.side_by_side import worthwhile_drafts
from gritlm.serve.engine.sequence import RunningSequence
from gritlm.serve.engine.slot_protocol import KVSlots, StepResult


def choose_drafts(
    sequences: Sequence[RunningSequence], kv_slots: KVSlots, model: GritLM
) -> list[list[int]] | None:
    """Return a draft for each sequence, empty for some; None where a plain step is faster.

    Drafts that no pass verifies are compared with the tokens that are drawn next.

    Args:
        sequences: all running sequences.
        kv_slots: their memory.
        model: the model of requests without one.
    """
    if kv_slots.whole or any(len(each.slots) > 1 for each in sequences):
        return None
    drafts = [each.drawn.draft() for each in sequences]
    if not any(drafts):
        return None
    if len(sequences) == 1:
        return drafts
    chosen = None
    if _share_a_pass(sequences, kv_slots, model):
        pairs = zip(sequences, drafts, strict=True)
        expected = [each.drawn.expected(len(draft)) for each, draft in pairs]
        compiled = len(sequences) <= (sequences[0].request.model or model).lm.compiled_rows
        chosen = worthwhile_drafts(drafts, expected, compiled=compiled)
    verified = chosen or [[]] * len(drafts)
    for sequence, draft, taken in zip(sequences, drafts, verified, strict=True):
        if draft and not taken:
            sequence.drawn.watch(draft)
    return chosen


def _share_a_pass(sequences: Sequence[RunningSequence], kv_slots: KVSlots, model: GritLM) -> bool:
    models = [each.request.model or model for each in sequences]
    if any(slot.offset for each in sequences for slot in each.slots):
        return False  # a pass over several texts takes tokens at their own positions only
    return all(each is models[0] for each in models) and kv_slots.prefills_together(models[0].lm)


def read_drafts(
    sequences: Sequence[RunningSequence], drafts: Sequence[list[int]], kv_slots: KVSlots
) -> Sequence[StepResult]:
    """Return the logits (S, V) after the last token of each sequence and its draft, or the error.

    Args:
        sequences: sequences with a single slot each, of one model.
        drafts: a draft for each of them.
        kv_slots: their memory.
    """
    slots = [each.slots[0] for each in sequences]
    pairs = zip(sequences, drafts, strict=True)
    ids = [[each.drawn.token, *draft] for each, draft in pairs]
    if len(sequences) > 1:
        return kv_slots.prefill_together(slots, ids, every=True)
    try:
        return [kv_slots.prefill(slots[0], ids[0], room=0, every=True)]
    except Exception as error:
        return [error]
