"""Hidden states for training: one module, read in both ways.

The two views of :class:`gritlm.lm.model.UnifiedLM` are two module trees over the same tensors.
DDP and FSDP need one (FSDP exchanges its parameters), so here the way of reading is an argument:
an attention mask with four dimensions, which models of transformers use as it is. Nothing is
changed in module or configuration, so recomputing layers in the backward pass sees the same mask.

Shapes: B rows, L positions, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
        mask = all_see(real_BL, getattr(decoder, "module", decoder))
    return decoder(ids_BL, attention_mask=mask, use_cache=False).last_hidden_state


def all_see(mask_BL: Tensor, decoder: Any) -> Tensor:
    """The mask (B, 1, L, L) in which every token sees all real tokens of its row.

    Padding sees them too, so that no row of attention weights is empty.
    """
    real_BL = mask_BL.bool()
    seen = real_BL[:, None, None, :].expand(-1, 1, real_BL.shape[1], -1)
    if decoder.config._attn_implementation != "eager":
        return seen
    # The plain implementation adds its mask to the scores.
    lowest = torch.finfo(decoder.dtype).min
    return torch.zeros_like(seen, dtype=decoder.dtype).masked_fill(~seen, lowest)
