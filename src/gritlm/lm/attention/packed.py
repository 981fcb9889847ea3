"""Bidirectional attention over concatenated texts without padding.

Shapes: T tokens of all texts together, H heads, K key/value heads, E head dimension.

It is registered in the attention registry of transformers, so every model that uses the registry
supports it, and no modeling file is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from itertools import accumulate
from math import isclose
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gritlm.errors import ModelError

PACKED = "gritlm_packed"
BOTH = "gritlm_both"
GROUPED = "gritlm_grouped"

_WIDEST = 256  # dimensions of a head that the flash kernel takes
_KEPT_BORDERS = 8

CHANGES_SCORES = ("s_aux", "sinks", "position_bias", "attn_bias", "alibi", "head_mask")


def register() -> None:
    """Register ``gritlm_packed`` in transformers; further calls have no effect."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, _no_mask)


def register_both() -> None:
    """Register ``gritlm_both`` in transformers, for modules with both kinds of attention.

    Calls with ``lengths`` get bidirectional attention over texts without padding; other calls use
    ``sdpa`` of transformers.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    AttentionInterface.register(BOTH, both_attention)
    AttentionMaskInterface.register(BOTH, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def register_grouped() -> None:
    """Register ``gritlm_grouped`` in transformers, for few tokens on a CPU."""
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    AttentionInterface.register(GROUPED, grouped_attention)
    AttentionMaskInterface.register(GROUPED, ALL_MASK_ATTENTION_FUNCTIONS["eager"])


def grouped_attention(
    module: torch.nn.Module,
    query_BHQE: Tensor,
    key_BKTE: Tensor,
    value_BKTE: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Compute the attention (B, Q, H, E) of few queries on any number of keys; inference only.

    Heads that share keys are computed by a single matrix product, without repeating the keys. The
    CPU kernel of torch takes up to twice as long (docs/log.md).

    Args:
        module: the attention layer.
        query_BHQE: queries.
        key_BKTE: keys.
        value_BKTE: values.
        attention_mask: boolean or additive mask (B, 1, Q, T); None for no mask.
        scaling: factor of the scores; None for 1/sqrt(E).
        **others: other arguments of attention functions in transformers.
    """
    if others.get("softcap") is not None or _unknown_score(others):
        return _sdpa(
            module, query_BHQE, key_BKTE, value_BKTE, attention_mask, scaling=scaling, **others
        )
    rows, heads, size, width = query_BHQE.shape
    shared = heads // key_BKTE.shape[1]
    scale = scaling if scaling is not None else width**-0.5
    grouped = (query_BHQE * scale).reshape(rows, -1, shared * size, width)
    # torch copies keys that are no single piece of memory anyway, in a slower way.
    score = grouped @ key_BKTE.contiguous().transpose(-1, -2)
    score = score.view(rows, -1, shared, size, key_BKTE.shape[2])
    if attention_mask is not None:
        _hide(score, attention_mask[:, :, None])
    # Without conversion: softmax sums in float32 internally, and a copy takes ten times longer.
    weight = score.softmax(dim=-1)
    mixed = weight.flatten(2, 3) @ value_BKTE
    return mixed.view(rows, heads, size, width).transpose(1, 2).contiguous(), None


def _hide(score: Tensor, mask: Tensor) -> None:
    """Apply a mask to scores in place: an additive mask, or a boolean one (False hides)."""
    if mask.dtype is torch.bool:
        score.masked_fill_(~mask, torch.finfo(score.dtype).min)
    else:
        score += mask


def both_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    lengths: list[int] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute :func:`packed_attention` if ``lengths`` are given, else ``sdpa``.

    Args:
        module: the attention layer.
        query: queries.
        key: keys.
        value: values.
        attention_mask: mask for ``sdpa``; ignored if there are ``lengths``.
        lengths: tokens of each text; None for ordinary attention.
        **options: other arguments of attention functions in transformers.
    """
    if lengths is not None:
        return packed_attention(
            module, query, key, value, attention_mask, lengths=lengths, **options
        )
    return _sdpa(module, query, key, value, attention_mask, **options)


def _sdpa(*arguments: Any, **options: Any) -> Any:
    """Call the ``sdpa`` attention of transformers."""
    from transformers import AttentionInterface

    return AttentionInterface()["sdpa"](*arguments, **options)


def _no_mask(*_: Any, **__: Any) -> None:
    """Return no mask: the lengths of the texts replace it."""


def packed_attention(
    module: torch.nn.Module,
    query_1HTE: Tensor,
    key_1KTE: Tensor,
    value_1KTE: Tensor,
    attention_mask: Tensor | None,
    *,
    lengths: list[int],
    pause: Callable[[], None] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Compute bidirectional attention (1, T, H, E) within each of several concatenated texts.

    Sliding windows are ignored: an embedding attends to its whole text.

    Args:
        module: the attention layer.
        query_1HTE: queries of all texts.
        key_1KTE: keys of all texts.
        value_1KTE: values of all texts.
        attention_mask: ignored.
        lengths: number of tokens of each text.
        pause: checkpoint callback, called in every layer.
        scaling: factor of the scores; None for 1/sqrt(E).
        dropout: dropout rate in training.
        softcap: bound of the scores as in Gemma 2; None for no bound.
        **others: other arguments of attention functions in transformers.

    Raises:
        ModelError: for attention with additional score terms; see :data:`CHANGES_SCORES`.
    """
    del attention_mask
    if pause is not None:
        pause()
    refuse_unknown_scores(
        module,
        others,
        where="the bidirectional view of gritlm does not have; this model can "
        "write (mode='generative') but not embed",
    )
    groups = query_1HTE.shape[1] // key_1KTE.shape[1]
    key_1HTE = key_1KTE.repeat_interleave(groups, dim=1) if groups > 1 else key_1KTE
    value_1HTE = value_1KTE.repeat_interleave(groups, dim=1) if groups > 1 else value_1KTE
    rate = dropout if module.training else 0.0
    if softcap is None and not rate and _has_varlen_kernel(query_1HTE):
        return _varlen(query_1HTE, key_1HTE, value_1HTE, lengths, scaling), None
    texts = zip(
        query_1HTE.split(lengths, dim=2),
        key_1HTE.split(lengths, dim=2),
        value_1HTE.split(lengths, dim=2),
        strict=True,
    )
    mixed = [_full(q, k, v, scaling, rate, softcap) for q, k, v in texts]
    return torch.cat(mixed, dim=2).transpose(1, 2).contiguous(), None


def refuse_unknown_scores(
    module: torch.nn.Module, others: Mapping[str, object], *, where: str
) -> None:
    """Refuse score terms that are not implemented (sinks of GPT-OSS, ALiBi, ...).

    Args:
        module: the attention layer.
        others: additional arguments of the attention function.
        where: end of the message: the attention without the term, and the consequence.

    Raises:
        ModelError: for an additional score term, with its name.
    """
    if (name := _unknown_score(others)) is not None:
        raise ModelError(f"{type(module).__name__} attends with {name!r}, which {where}")


def _unknown_score(others: Mapping[str, object]) -> str | None:
    return next((name for name in CHANGES_SCORES if others.get(name) is not None), None)


def _full(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, rate: float, cap: float | None
) -> Tensor:
    """Compute the full attention of a text, with the soft cap of Gemma 2 if any."""
    if cap is None:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=rate, scale=scaling)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    score = query @ key.transpose(-1, -2) * scale
    weight = (torch.tanh(score / cap) * cap).softmax(dim=-1, dtype=torch.float32)
    return F.dropout(weight.to(query.dtype), rate) @ value


def _has_varlen_kernel(query: Tensor) -> bool:
    """Return whether the flash kernel takes a tensor: half precision, Ampere or newer."""
    width = query.shape[-1]
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        return False
    return width % 8 == 0 and width <= _WIDEST and _has_flash(query.device)


@cache
def _has_flash(device: torch.device) -> bool:
    """Return whether a GPU is new enough for flash attention; AMD's are."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scaling: float | None
) -> Tensor:
    """Compute the attention (1, T, H, E) with a single flash kernel (GPU, half precision)."""
    from torch.nn.attention.varlen import varlen_attn

    factor = 1.0 if scaling is None else scaling * query.shape[-1] ** 0.5
    if not isclose(factor, 1.0):  # the kernel scales by 1/sqrt(E) itself
        query = query * factor
    border_N = _borders(tuple(lengths), query.device)
    query, key, value = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    longest = max(lengths)
    mixed: Any = varlen_attn(query, key, value, border_N, border_N, longest, longest)
    return mixed[None]


@lru_cache(_KEPT_BORDERS)
def _borders(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the first token of each text and the end of the last one (N + 1), int32.

    All layers of a pass share it: a copy to the GPU in each layer would wait for the layer before.
    """
    with torch.inference_mode(False):  # a pass of training may take it too
        border_N = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return border_N.to(device)
