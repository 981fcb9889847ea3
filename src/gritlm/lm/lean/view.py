"""Views of a model whose forward pass is the lean one.

Shapes: B rows, Q tokens of a pass, T keys or tokens of all texts, D hidden size, V vocabulary, S
positions that are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache as memoised
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from gritlm.lm.attention import views
from gritlm.lm.attention.ragged import RaggedRun
from gritlm.lm.compiled.passes import step_logits
from gritlm.lm.compiled.steps import CompiledStep, compiled_step
from gritlm.lm.kv.cache import UnboundedLayer
from gritlm.lm.lean.attention import (
    Attention,
    SideBySideAttention,
    SlotAttention,
    TiledAttention,
)
from gritlm.lm.lean.decoder import LeanDecoder
from gritlm.lm.lean.low_rank import with_low_rank
from gritlm.lm.lean.tiles import (
    Tile,
    causal_text_tiles,
    causal_tiles,
    masked_tiles,
    seen_by_window,
    text_tiles,
)
from gritlm.lm.lean.weights import LeanWeights, lean_weights

# Options that the pass takes, or that change nothing unless they are False.
_KNOWN = ("runs", "cache_position", "return_dict")


def lean_view(model: Any, *, packed: bool, compiled: bool = False) -> Any | None:
    """Return a view of a model with the lean forward pass; None for a model it does not know.

    Args:
        model: a causal model, or a decoder without LM head. The view shares its tensors.
        packed: whether the pass has a packed copy of the weights.
        compiled: whether few tokens are computed by compiled steps.
    """
    view = views.shell(model)
    weights = lean_weights(view, packed=packed)
    if weights is None:
        return None
    step = compiled_step(view) if compiled else None
    view.forward = LeanForward(LeanDecoder(weights), model, step).forward
    return view


def adapted_lean_view(model: Any, base_view: Any) -> Any | None:
    """Return a view of a model with plain LoRA that has the lean pass of its base.

    Args:
        model: a causal model, or a decoder without LM head.
        base_view: view of its base.

    Returns:
        The view; None if the base does not have the lean pass.
    """
    base = lean_forward_of(base_view)
    if base is None:
        return None
    view = views.shell(model)
    weights = with_low_rank(base.weights, [view])
    view.forward = LeanForward(LeanDecoder(weights), model).forward
    return view


def lean_forward_of(view: Any) -> LeanForward | None:
    """Return the lean forward pass of a view; None for other views."""
    owner = getattr(view.forward, "__self__", None)
    return owner if isinstance(owner, LeanForward) else None


class LeanForward:
    """Forward pass of a model by a lean decoder; other calls than it takes go to the model itself.

    Args:
        decoder: the lean decoder.
        model: the model.
        step: compiled steps for few tokens; None for none.
    """

    def __init__(self, decoder: LeanDecoder, model: Any, step: CompiledStep | None = None) -> None:
        self._decoder = decoder
        self._step = step
        self._model = model
        self._dtype = decoder.weights.embedding.dtype
        self._last = len(decoder.weights.layers) - 1

    @property
    def weights(self) -> LeanWeights:
        """The weights of the pass."""
        return self._decoder.weights

    @property
    def compiled_rows(self) -> int:
        """Most rows of a compiled step; 0 without compiled steps."""
        return 0 if self._step is None else self._step.rows

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **others: Any,
    ) -> Any:
        """Return the logits (B, S, V), or the states (B, Q, D) of a model without LM head.

        Args:
            input_ids: token ids (B, Q).
            attention_mask: as the model takes it.
            position_ids: positions (B, Q); None for those after the cached tokens.
            past_key_values: cache, extended in place.
            use_cache: as the model takes it.
            logits_to_keep: number of last positions with logits; 0 for all.
            **others: groups of sequences in KV slots (``runs``), or further options of the model.
        """
        size = 0 if input_ids is None else input_ids.shape[1]
        held = 0 if past_key_values is None else past_key_values.get_seq_length()
        if (
            input_ids is None
            or torch.is_grad_enabled()
            or not isinstance(logits_to_keep, int)
            or not _is_plain_call(past_key_values, use_cache, others)
            or not _is_known_mask(attention_mask, held + size)
        ):
            return self._model(
                input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **({"logits_to_keep": logits_to_keep} if self._decoder.weights.head else {}),
                **others,
            )
        if position_ids is None:
            position_ids = torch.arange(held, held + size)[None]
        has_head = self._decoder.weights.head is not None
        first = max(0, size - logits_to_keep) if logits_to_keep and has_head else 0
        runs: Sequence[RaggedRun] | None = others.get("runs")
        if self._step is not None and attention_mask is None:
            places = (position_ids, held, runs)
            logits = step_logits(self._step, input_ids, past_key_values, places, size - first)
            if logits is not None:
                return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)
        attention: Attention
        if runs is not None:
            attention = SlotAttention(past_key_values, runs)
        else:
            tiles = self._tiles(size, held, attention_mask, first)
            attention = TiledAttention(past_key_values, tiles)
        kept = slice(first, None) if first else None
        hidden_BSD = self._decoder.states(input_ids, position_ids, attention, kept=kept)
        return self._output(hidden_BSD, past_key_values)

    def side_by_side(
        self, ids: Sequence[Sequence[int]], caches: Sequence[Any], keep: Sequence[int]
    ) -> Sequence[Tensor]:
        """Return the logits (S, V) of several texts, each of which goes on after its own cache.

        Args:
            ids: token ids of each text.
            caches: cache of each text, extended in place.
            keep: number of last positions of each text with logits.
        """
        head = self._decoder.weights.head
        assert head is not None, "a model with logits has an LM head"
        sizes = [len(each) for each in ids]
        attention: list[Attention] = []
        positions = []
        kept = []
        start = 0
        for size, cache, number in zip(sizes, caches, keep, strict=True):
            held = cache.get_seq_length()
            first = size - number
            attention.append(TiledAttention(cache, self._tiles(size, held, None, first)))
            positions.append(torch.arange(held, held + size))
            kept.append(torch.arange(start + first, start + size))
            start += size
        hidden_1SD = self._decoder.states(
            torch.tensor([[token for each in ids for token in each]]),
            torch.cat(positions)[None],
            SideBySideAttention(attention, sizes),
            kept=torch.cat(kept),
        )
        logits_SV: Tensor = head(hidden_1SD)[0]
        return logits_SV.split(list(keep))

    def texts(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        past_key_values: Any,
        lengths: Sequence[int],
        pause: Callable[[], None] | None = None,
        causal: bool = False,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        """Return the states of concatenated texts, without attention between texts.

        Args:
            input_ids: token ids (1, T).
            position_ids: positions (1, T).
            past_key_values: cache that records keys and values; None for no cache.
            lengths: number of tokens of each text.
            pause: checkpoint callback, called in every layer.
            causal: whether a token attends to earlier tokens only, else to its whole text.
        """

        @memoised
        def made(window: int | None) -> list[Tile]:
            if causal:
                return causal_text_tiles(lengths, window, self._dtype)
            return text_tiles(lengths, self._dtype)

        def tiles(_: int, window: int | None) -> Sequence[Tile]:
            return made(window if causal else None)

        attention = TiledAttention(past_key_values, tiles, pause)
        hidden_1TD = self._decoder.states(input_ids, position_ids, attention)
        return BaseModelOutputWithPast(last_hidden_state=hidden_1TD)

    def _tiles(
        self, size: int, held: int, mask: Any, first: int
    ) -> Callable[[int, int | None], Sequence[Tile]]:
        """Return the function from a layer and its window to the tiles of the attention."""

        @memoised
        def made(window: int | None, start: int) -> list[Tile]:
            seen = _seen(mask, size, held, window)
            if seen is None:
                return causal_tiles(size, held, window, self._dtype, first=start)
            return masked_tiles(seen, self._dtype, first=start)

        return lambda layer, window: made(window, first if layer == self._last else 0)

    def _output(self, hidden_BSD: Tensor, cache: Any) -> Any:
        head = self._decoder.weights.head
        if head is None:
            return BaseModelOutputWithPast(last_hidden_state=hidden_BSD, past_key_values=cache)
        return CausalLMOutputWithPast(logits=head(hidden_BSD), past_key_values=cache)


def _is_plain_call(cache: Any, use_cache: bool | None, others: Mapping[str, Any]) -> bool:
    """Return whether the pass has no other options, and a cache that holds every token, or none."""
    if use_cache and cache is None:
        return False
    if any(
        value is not None and value is not False and name not in _KNOWN
        for name, value in others.items()
    ):
        return False
    if others.get("return_dict") is False:
        return False
    layers = [] if cache is None else cache.layers
    return all(isinstance(each, UnboundedLayer) or type(each) is DynamicLayer for each in layers)


def _is_known_mask(mask: Any, keys: int) -> bool:
    """Return whether a mask hides padding (B, T) or is boolean (B, 1, Q, T), or one per window."""
    masks = list(mask.values()) if isinstance(mask, Mapping) else [mask]
    return all(
        each is None
        or (
            isinstance(each, Tensor)
            and (each.ndim == 2 or (each.ndim == 4 and each.dtype is torch.bool))
            and each.shape[-1] == keys
        )
        for each in masks
    )


def _seen(mask: Any, size: int, held: int, window: int | None) -> Tensor | None:
    """Return which keys the queries see (B, Q, T); None for causal attention to all."""
    if isinstance(mask, Mapping):
        mask = mask["full_attention" if window is None else "sliding_attention"]
    if mask is None or (mask.ndim == 2 and bool(mask.all())):
        return None
    if mask.ndim == 4:
        return mask[:, 0]
    return seen_by_window(size, held, window) & mask.bool()[:, None]
