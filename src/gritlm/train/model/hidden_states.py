"""Hidden states for training: causal and bidirectional attention with one module.

The two views of :class:`gritlm.lm.unified.UnifiedLM` are two module trees over the same tensors.
DDP and FSDP need one tree (FSDP exchanges its parameters), so here the attention is an argument: a
4-D mask, which models of transformers use as it is. Module and configuration stay unchanged, so
layers that the backward pass recomputes see the same mask.

Shapes: B rows, L positions, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gritlm.lm.attention.block_mask import as_mask, windowed
from gritlm.train.data.packing import PackedBatch


def hidden(decoder: Any, ids_BL: Tensor, mask_BL: Tensor | None = None, *, causal: bool) -> Tensor:
    """Return the states after the final norm (B, L, D); arbitrary where the mask is 0.

    Args:
        decoder: decoder of transformers without its LM head, possibly wrapped by DDP or FSDP.
        ids_BL: token ids, padded on the right.
        mask_BL: 1 for real tokens; None without padding.
        causal: attend to earlier tokens only; otherwise to the whole text (and without a sliding
            window).
    """
    if causal:
        mask: Tensor | None = mask_BL
    else:
        real_BL = torch.ones_like(ids_BL) if mask_BL is None else mask_BL
        mask = full_mask(real_BL, _unwrapped(decoder))
    return decoder(ids_BL, attention_mask=mask, use_cache=False).last_hidden_state


def hidden_packed(decoder: Any, ids_T: Tensor, lengths: list[int]) -> Tensor:
    """Return the bidirectional states of concatenated texts without padding (T, D).

    Args:
        decoder: decoder with ``gritlm_both`` as its attention.
        ids_T: token ids of all texts.
        lengths: number of tokens of each text.
    """
    position_T = torch.cat([torch.arange(length) for length in lengths]).to(ids_T.device)
    # A 4-D mask keeps transformers from building one; the lengths are all that is used.
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
    """Return whether samples of a packed row do not attend to each other."""
    size = decoder.config.vocab_size
    device = decoder.get_input_embeddings().weight.device
    ids_2L = torch.tensor([[1, 2, 3, 4, 5, 6], [5, 6, 7, 4, 5, 6]], device=device) * (size // 10)
    position_2L = torch.arange(3, device=device).repeat(2, 2)
    found = decoder(ids_2L, position_ids=position_2L, use_cache=False).last_hidden_state
    return bool(torch.allclose(found[0, 3:], found[1, 3:], atol=1e-4, rtol=1e-4))


def generative_states(decoder: Any, rows: PackedBatch) -> Tensor:
    """Return the states of generative rows after the final norm (B, L, D); arbitrary at padding.

    A sliding window limits causal attention only, not that within a bidirectional block, as in
    serving.

    Args:
        decoder: decoder of transformers without its LM head, possibly wrapped by DDP or FSDP.
        rows: the batch.
    """
    return generative_states_and_routers(decoder, rows, wanted=False)[0]


def generative_states_and_routers(
    decoder: Any, rows: PackedBatch, *, wanted: bool = True
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return :func:`generative_states` and, if wanted, each router's logits (B * L, experts)."""
    seen_BLL = rows.seen_BLL
    unwrapped = _unwrapped(decoder)
    mask = None if seen_BLL is None else masks(seen_BLL, rows.position_BL, unwrapped)
    extra = {"output_router_logits": True} if wanted else {}
    output = decoder(
        rows.ids_BL, attention_mask=mask, position_ids=rows.position_BL, use_cache=False, **extra
    )
    return output.last_hidden_state, output.router_logits if wanted else ()


def full_mask(mask_BL: Tensor, decoder: Any) -> Tensor:
    """Return the mask (B, 1, L, L) in which every token attends to all real tokens of its row.

    Padding attends to them too, so that no row of attention weights is empty.
    """
    real_BL = mask_BL.bool()
    return as_mask(real_BL[:, None, :].expand(-1, real_BL.shape[1], -1), decoder)


def masks(seen_BLL: Tensor, position_BL: Tensor, decoder: Any) -> Tensor | dict[str, Tensor]:
    """Return the mask, or a dict of masks for a decoder with several kinds of layers.

    Args:
        seen_BLL: tokens (last axis) that each token attends to.
        position_BL: positions within the samples, for sliding windows.
        decoder: decoder of transformers without its LM head.
    """
    distance_BLL = position_BL[:, :, None] - position_BL[:, None, :]
    mutual_BLL = seen_BLL & seen_BLL.transpose(1, 2)
    return windowed(seen_BLL, lambda size: seen_BLL & (mutual_BLL | (distance_BLL < size)), decoder)


def _unwrapped(decoder: Any) -> Any:
    return getattr(decoder, "module", decoder)
