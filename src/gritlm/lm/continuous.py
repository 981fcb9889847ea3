"""Greedy answers to many prompts: a sequence that ends makes room for the next prompt.

A batch of transformers' ``generate`` goes on until its longest answer ends; here each step has as
many sequences as there are KV slots. A prefix that all prompts share, such as solved examples, is
prefilled once and copied.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gritlm.lm.generator import TextStream, prefill
from gritlm.lm.gritlm import GritLM
from gritlm.lm.kv.slot_memory import SlotMemory


@dataclass
class _Sequence:
    """An answer in its KV slot.

    Attributes:
        number: index of its prompt.
        stream: finds stop strings.
        held: tokens in the slot.
        ids: tokens of the answer so far; the last one is not in the slot yet.
    """

    number: int
    stream: TextStream
    held: int
    ids: list[int] = field(default_factory=list)


@torch.inference_mode()
def greedy_answers(
    model: GritLM,
    prompts: Sequence[Sequence[int]],
    *,
    until: Sequence[str],
    max_new_tokens: int,
    slots: int,
) -> list[list[int]]:
    """Return the token ids of the likeliest answer to each prompt, up to an end or stop string.

    Args:
        model: a model that decodes in batches (:func:`gritlm.lm.kv.slot_memory.obstacle`).
        prompts: token ids, at least one each.
        until: strings that end an answer.
        max_new_tokens: most tokens of an answer.
        slots: most sequences that are decoded together.
    """
    lm = model.lm
    slots = min(slots, len(prompts))
    prefix = _shared_prefix(prompts) if len(prompts) > 1 else ()
    longest = max(len(ids) for ids in prompts)
    memory = SlotMemory(lm, slots + bool(prefix), longest + max_new_tokens)
    if prefix:
        prefill(lm, memory.cache(slots, 0), prefix)
    waiting = list(enumerate(prompts))[::-1]
    running: dict[int, _Sequence] = {}
    answers: list[list[int]] = [[] for _ in prompts]

    def take(slot: int, sequence: _Sequence, logits_V: Tensor) -> None:
        """Draw a token; free the slot of a sequence that ends."""
        token = int(logits_V.argmax())
        if not _ends(sequence, token, model.end_ids, max_new_tokens):
            running[slot] = sequence
            return
        answers[sequence.number] = sequence.ids
        running.pop(slot, None)

    while waiting or running:
        for slot in range(slots):
            while slot not in running and waiting:
                number, ids = waiting.pop()
                if prefix:
                    memory.copy(slots, slot, len(prefix))
                logits_V = prefill(lm, memory.cache(slot, len(prefix)), ids[len(prefix) :])
                stream = TextStream(model.tokenizer, until)
                take(slot, _Sequence(number, stream, len(ids)), logits_V)
        if running:
            order = sorted(running)
            sequences = [running[slot] for slot in order]
            logits_BV = memory.step(
                [each.ids[-1] for each in sequences], order, [each.held for each in sequences]
            )
            for slot, sequence, logits_V in zip(order, sequences, logits_BV, strict=True):
                sequence.held += 1
                take(slot, sequence, logits_V)
    return answers


def _shared_prefix(prompts: Sequence[Sequence[int]]) -> Sequence[int]:
    """Return the first tokens that all prompts share, without the last token of any."""
    first, *_, last = sorted(map(list, prompts))  # those between share as much with both
    most = min(map(len, prompts)) - 1
    size = next((at for at in range(most) if first[at] != last[at]), most)
    return first[:size]


def _ends(sequence: _Sequence, token: int, end_ids: Collection[int], most: int) -> bool:
    """Add a token to a sequence; return whether it ends there."""
    if token in end_ids:
        return True
    sequence.ids.append(token)
    sequence.stream.push(token)
    return sequence.stream.stopped or len(sequence.ids) == most
