"""Hidden states for training: one module, read in both ways.

The two views of :class:`gritlm.lm.unified.UnifiedLM` are two module trees over the same tensors.
DDP and FSDP need one (FSDP exchanges its parameters), so here the way of reading is an argument:
an attention mask with four dimensions, which models of transformers use as it is. Nothing is
changed in module or configuration, so recomputing layers in the backward pass sees the same mask.

Shapes: B rows, L positions, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gritlm.lm.attention.block_mask import as_mask, windowed
from gritlm.train.data.packing import PackedBatch


def hidden(decoder: Any, ids_BL: Tensor, mask_BL: Tensor | None = None, *, causal: bool) -> Tensor:
    """States after the final norm -> (B, L, D); arbitrary where the mask is 0.

    Args:
        decoder: a decoder of transformers without its LM head, or DDP or FSDP around one.
        ids_BL: token ids, padded on the right.
        mask_BL: 1 for real tokens; None when there is no padding.
        causal: each token sees those before it, else its whole text (and no sliding window).
    """
    if causal:
        mask: Tensor | None = mask_BL
    else:
        real_BL = torch.ones_like(ids_BL) if mask_BL is None else mask_BL
        mask = all_see(real_BL, _inner(decoder))
    return decoder(ids_BL, attention_mask=mask, use_cache=False).last_hidden_state


def hidden_packed(decoder: Any, ids_T: Tensor, lengths: list[int]) -> Tensor:
    """Bidirectional states of texts that stand one behind the other, without padding -> (T, D).

    Args:
        decoder: with ``gritlm_both`` as its attention.
    """
    position_T = torch.cat([torch.arange(length, device=ids_T.device) for length in lengths])
    # A mask with four dimensions is taken as it is, so none is built; the lengths say all.
    mask_1111 = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids_T.device)
    output = decoder(
        ids_T[None],
        attention_mask=mask_1111,
        position_ids=position_T[None],
        use_cache=False,
        lengths=lengths,
    )
    return output.last_hidden_state[0]


@torch.no_grad()
def keeps_samples_apart(decoder: Any) -> bool:
    """Whether the second sample of a packed row is read as if the first were not there."""
    size = decoder.config.vocab_size
    device = decoder.get_input_embeddings().weight.device
    ids_2L = torch.tensor([[1, 2, 3, 4, 5, 6], [5, 6, 7, 4, 5, 6]], device=device) * (size // 10)
    position_2L = torch.arange(3, device=device).repeat(2, 2)
    found = decoder(ids_2L, position_ids=position_2L, use_cache=False).last_hidden_state
    return bool(torch.allclose(found[0, 3:], found[1, 3:], atol=1e-4, rtol=1e-4))


def written(decoder: Any, rows: PackedBatch) -> Tensor:
    """States of generative rows after the final norm -> (B, L, D); arbitrary at padding.

    Args:
        decoder: as in :func:`hidden`. A sliding window cuts what is read causally, and nothing
            that sees and is seen (a block read in both directions), as it is when served.
    """
    return routed(decoder, rows, wanted=False)[0]


def routed(
    decoder: Any, rows: PackedBatch, *, wanted: bool = True
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """:func:`written`, and if wanted the logits of each layer's router (B * L, experts)."""
    seen_BLL = rows.seen_BLL
    inner = _inner(decoder)
    mask = None if seen_BLL is None else _masks(seen_BLL, rows.position_BL, inner)
    extra = {"output_router_logits": True} if wanted else {}
    output = decoder(
        rows.ids_BL, attention_mask=mask, position_ids=rows.position_BL, use_cache=False, **extra
    )
    return output.last_hidden_state, output.router_logits if wanted else ()


def all_see(mask_BL: Tensor, decoder: Any) -> Tensor:
    """The mask (B, 1, L, L) in which every token sees all real tokens of its row.

    Padding sees them too, so that no row of attention weights is empty.
    """
    real_BL = mask_BL.bool()
    return as_mask(real_BL[:, None, :].expand(-1, real_BL.shape[1], -1), decoder)


def _masks(seen_BLL: Tensor, position_BL: Tensor, decoder: Any) -> Tensor | dict[str, Tensor]:
    """One mask, or one for each kind of layer where a decoder has several kinds."""
    distance_BLL = position_BL[:, :, None] - position_BL[:, None, :]
    mutual_BLL = seen_BLL & seen_BLL.transpose(1, 2)
    return windowed(seen_BLL, lambda size: seen_BLL & (mutual_BLL | (distance_BLL < size)), decoder)


def _inner(decoder: Any) -> Any:
    return getattr(decoder, "module", decoder)
