"""Attention of batched decoding steps, over sequences of different lengths in KV slots.

Shapes: B sequences of a step, R sequences of a run, S slots, H heads, K key/value heads, C capacity
of a slot in tokens, W attended tokens, E head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gritlm.lm.attention import views
from gritlm.lm.attention.packed import refuse_unknown_scores

RAGGED = "gritlm_ragged"

# A call of the attention of a layer costs about as much as attending to 200 tokens (docs/log.md).
CALL_TOKENS = 200


class RaggedRun:
    """Sequences in neighbouring slots, computed as a padded batch.

    Args:
        first_row: index of the first sequence in the step.
        first_slot: slot of the first sequence.
        lengths: number of tokens that each sequence attends to, with the current one.
        device: device of the mask.
    """

    def __init__(
        self, first_row: int, first_slot: int, lengths: Sequence[int], device: torch.device
    ) -> None:
        self.rows = slice(first_row, first_row + len(lengths))
        self.slots = slice(first_slot, first_slot + len(lengths))
        self._shortest = min(lengths)
        self._longest = max(lengths)
        self._lengths = lengths
        self._device = device
        self._seen: dict[int | None, tuple[slice, Tensor | None]] = {}

    def seen(self, window: int | None) -> tuple[slice, Tensor | None]:
        """Return the range of attended tokens and the mask (R, 1, 1, W) of hidden ones.

        Without hidden tokens there is no mask (None).

        Args:
            window: size of the sliding window in tokens; None for no window.
        """
        if window not in self._seen:  # the same for all layers of a kind
            self._seen[window] = self._look(window)
        return self._seen[window]

    def _look(self, window: int | None) -> tuple[slice, Tensor | None]:
        start = 0 if window is None else max(0, self._shortest - window)
        part = slice(start, self._longest)
        if self._shortest == self._longest:
            return part, None
        # Only here: without hidden tokens nothing is copied to the device.
        length_R1 = torch.tensor(self._lengths, device=self._device)[:, None]
        place_W = torch.arange(start, self._longest, device=self._device)
        hidden_RW = place_W >= length_R1
        if window is not None:
            hidden_RW |= place_W < length_R1 - window
        return part, hidden_RW[:, None, None]


def runs(slots: Sequence[int], lengths: Sequence[int], device: torch.device) -> list[RaggedRun]:
    """Group sequences so that neighbours of similar length share a call.

    Args:
        slots: slots of the sequences, ascending.
        lengths: number of tokens that each sequence attends to, with the current one.
        device: device of the masks.
    """
    groups: list[list[int]] = []
    for row in range(len(slots)):
        if groups and _joins(groups[-1], row, slots, lengths):
            groups[-1].append(row)
        else:
            groups.append([row])
    return [RaggedRun(g[0], slots[g[0]], [lengths[row] for row in g], device) for g in groups]


def _joins(group: list[int], row: int, slots: Sequence[int], lengths: Sequence[int]) -> bool:
    """Return whether padding the group with another row costs less than a separate call."""
    if slots[row] != slots[group[-1]] + 1:
        return False
    longest = max(lengths[member] for member in group)
    new = lengths[row]
    padding = len(group) * max(0, new - longest) + max(0, longest - new)
    return padding <= CALL_TOKENS


def view(model: Any) -> Any:
    """Return a view of a causal model with :func:`ragged_attention`."""
    from transformers import AttentionInterface

    AttentionInterface.register(
        RAGGED, ragged_attention
    )  # without a mask function: no mask is built
    return views.attending(model, RAGGED)


def ragged_attention(
    module: torch.nn.Module,
    query_BH1E: Tensor,
    key_SKCE: Tensor,
    value_SKCE: Tensor,
    attention_mask: Tensor | None,
    *,
    runs: Sequence[RaggedRun],
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Compute the attention (B, 1, H, E) of a token per sequence on its slot; inference only.

    Args:
        module: the attention layer.
        query_BH1E: query of each sequence.
        key_SKCE: keys of all slots.
        value_SKCE: values of all slots.
        attention_mask: ignored.
        runs: groups of the sequences, in their order.
        scaling: factor of the scores; None for 1/sqrt(E).
        softcap: bound of the scores as in Gemma 2; None for no bound.
        sliding_window: window of the layer in tokens, if the model passes it.
        **others: other arguments of attention functions in transformers.

    Raises:
        ModelError: for attention with additional score terms.
    """
    del attention_mask
    refuse_unknown_scores(
        module,
        others,
        where="batched decoding steps do not have; its texts are generated one at a time",
    )
    window = _window(module, sliding_window)
    scale = scaling if scaling is not None else query_BH1E.shape[-1] ** -0.5
    mixed = attend_runs(query_BH1E * scale, key_SKCE, value_SKCE, runs, window, softcap)
    return mixed.transpose(1, 2), None


def attend_runs(
    query_BH1E: Tensor,
    key_SKCE: Tensor,
    value_SKCE: Tensor,
    runs: Sequence[RaggedRun],
    window: int | None,
    softcap: float | None = None,
) -> Tensor:
    """Return the attention (B, H, 1, E) of a token per sequence on its slot.

    Args:
        query_BH1E: scaled query of each sequence.
        key_SKCE: keys of all slots.
        value_SKCE: values of all slots.
        runs: groups of the sequences, in their order.
        window: sliding window of the layer in tokens; None for no window.
        softcap: bound of the scores as in Gemma 2; None for no bound.
    """
    mixed = []
    for run in runs:
        part, hidden = run.seen(window)
        key = key_SKCE[run.slots, :, part]
        value = value_SKCE[run.slots, :, part]
        mixed.append(_attend(query_BH1E[run.rows], key, value, hidden, softcap))
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


def _attend(
    query_RH1E: Tensor,
    key_RKWE: Tensor,
    value_RKWE: Tensor,
    hidden: Tensor | None,
    softcap: float | None,
) -> Tensor:
    """Return the attention (R, H, 1, E); heads that share keys are a single matrix product."""
    grouped = query_RH1E.reshape(len(query_RH1E), key_RKWE.shape[1], -1, query_RH1E.shape[-1])
    # On a CPU torch copies keys that are no single piece of memory anyway, in a slower way.
    key = key_RKWE.contiguous() if key_RKWE.device.type == "cpu" else key_RKWE
    score = grouped @ key.transpose(-1, -2)
    if softcap is not None:
        score = torch.tanh(score / softcap) * softcap
    if hidden is not None:
        score.masked_fill_(hidden.to(score.device), torch.finfo(score.dtype).min)
    return (score.softmax(dim=-1) @ value_RKWE).view(query_RH1E.shape)


def _window(module: Any, passed: int | None) -> int | None:
    """Return the sliding window of a layer: passed by the model, or from the configuration."""
    kinds = getattr(module.config, "layer_types", None)
    if passed is None and kinds and kinds[module.layer_idx] == "sliding_attention":
        return int(module.config.sliding_window)
    return passed
