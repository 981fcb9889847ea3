"""Unpadded attention: several texts in one row, each attending to all of itself and nothing else.

Shapes: T tokens of all texts together, H heads, K key/value heads, E head dimension.

transformers calls it like its own implementations (a name in its attention registry), so every
model that goes through that registry gets it: no modeling file is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gritlm.errors import ModelError

PACKED = "gritlm_packed"
BOTH = "gritlm_both"
GROUPED = "gritlm_grouped"

CHANGES_SCORES = ("s_aux", "sinks", "position_bias", "attn_bias", "alibi", "head_mask")


def register() -> None:
    """Make the name ``gritlm_packed`` known to transformers. Calling it again changes nothing."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, _no_mask)


def register_both() -> None:
    """Make the name ``gritlm_both`` known to transformers: for one module that is read both ways.

    Calls with ``lengths`` are texts without padding, read in both directions; others go to
    transformers' own ``sdpa``.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    AttentionInterface.register(BOTH, both_attention)
    AttentionMaskInterface.register(BOTH, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def register_grouped() -> None:
    """Make the name ``gritlm_grouped`` known to transformers: for few tokens on a CPU."""
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
    """Attention of few tokens Q on T that may be many more -> (B, Q, H, E); for inference only.

    The heads that share keys are one matrix product, so keys are neither repeated nor cut into
    pieces: the CPU kernel of torch takes up to twice as long (docs/log.md).
    """
    if others.get("softcap") is not None or _unknown_score(others):
        return _sdpa(
            module, query_BHQE, key_BKTE, value_BKTE, attention_mask, scaling=scaling, **others
        )
    rows, heads, size, width = query_BHQE.shape
    shared = heads // key_BKTE.shape[1]
    scale = scaling if scaling is not None else width**-0.5
    grouped = (query_BHQE * scale).reshape(rows, -1, shared * size, width)
    score = (grouped @ key_BKTE.transpose(-1, -2)).view(rows, -1, shared, size, key_BKTE.shape[2])
    if attention_mask is not None:
        _hide(score, attention_mask[:, :, None])
    # In its own number format: torch sums in float32 inside, copying to it costs ten times more.
    weight = score.softmax(dim=-1)
    mixed = weight.flatten(2, 3) @ value_BKTE
    return mixed.view(rows, heads, size, width).transpose(1, 2).contiguous(), None


def _hide(score: Tensor, mask: Tensor) -> None:
    """In place: a mask that is added, or one that is False where a token is not seen."""
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
    """:func:`packed_attention` where ``lengths`` are given, else ``sdpa``."""
    if lengths is not None:
        return packed_attention(
            module, query, key, value, attention_mask, lengths=lengths, **options
        )
    return _sdpa(module, query, key, value, attention_mask, **options)


def _sdpa(*arguments: Any, **options: Any) -> Any:
    """transformers' own, which torch computes."""
    from transformers import AttentionInterface

    return AttentionInterface()["sdpa"](*arguments, **options)


def _no_mask(*_: Any, **__: Any) -> None:
    """The lengths say all: no mask is built."""


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
    """Bidirectional attention within each of ``lengths`` consecutive texts -> (1, T, H, E).

    Sliding windows are ignored: an embedding looks at its whole text.

    Args:
        pause: called in every layer, so that who waits need not wait for all of them.
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
    """What would change the scores is refused, never ignored (sinks of GPT-OSS, ALiBi, ...).

    Args:
        where: it is missing, and what that means.

    Raises:
        ModelError: naming it.
    """
    if (name := _unknown_score(others)) is not None:
        raise ModelError(f"{type(module).__name__} attends with {name!r}, which {where}")


def _unknown_score(others: Mapping[str, object]) -> str | None:
    return next((name for name in CHANGES_SCORES if others.get(name) is not None), None)


def _full(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, rate: float, cap: float | None
) -> Tensor:
    """Full attention of one text; with a soft cap on the scores as Gemma 2 has it."""
    if cap is None:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=rate, scale=scaling)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    score = query @ key.transpose(-1, -2) * scale
    weight = (torch.tanh(score / cap) * cap).softmax(dim=-1, dtype=torch.float32)
    return F.dropout(weight.to(query.dtype), rate) @ value


def _has_varlen_kernel(query: Tensor) -> bool:
    return query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scaling: float | None
) -> Tensor:
    """One flash-attention kernel over all texts (GPU, half precision) -> (1, T, H, E)."""
    from torch.nn.attention.varlen import varlen_attn

    if scaling is not None:
        query = query * (scaling * query.shape[-1] ** 0.5)  # the kernel scales by 1/sqrt(E) itself
    border_N = torch.tensor([0, *lengths], device=query.device).cumsum(0).to(torch.int32)
    query, key, value = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    longest = max(lengths)
    mixed: Any = varlen_attn(query, key, value, border_N, border_N, longest, longest)
    return mixed[None]
