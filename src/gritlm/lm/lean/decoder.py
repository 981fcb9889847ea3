"""The lean forward pass of a decoder: few operations, no modules, one plan for all layers.

Shapes: B rows, Q tokens of a pass, S positions that are kept, D hidden size, H query heads, K
key/value heads, E head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gritlm.lm import threads
from gritlm.lm.lean.attention import Attention
from gritlm.lm.lean.weights import LeanLayer, LeanWeights, RmsNorm


class LeanDecoder:
    """Computes the states of a decoder from its weights; inference only.

    Args:
        weights: weights of the decoder.
    """

    def __init__(self, weights: LeanWeights) -> None:
        self.weights = weights

    def states(
        self,
        ids_BQ: Tensor,
        position_BQ: Tensor,
        attention: Attention,
        *,
        kept: slice | Tensor | None = None,
    ) -> Tensor:
        """Return the states (B, S, D) after the final norm.

        Args:
            ids_BQ: token ids.
            position_BQ: their positions; (1, Q) for the same in every row.
            attention: attention of the layers.
            kept: positions in the pass whose states are returned; None for all. The attention of
                the last layer returns these alone.
        """
        weights = self.weights
        x_BQD = F.embedding(ids_BQ, weights.embedding)
        angles = self._angles(position_BQ, x_BQD.dtype)
        for number, layer in enumerate(weights.layers):
            threads.adjust()  # in every layer: with a core too few, a layer can take a second
            heads = self._heads(layer, _normed(x_BQD, layer.before_attention), angles)
            mixed = attention(number, layer.window, *heads)
            if number + 1 == len(weights.layers) and kept is not None:
                x_BQD = x_BQD[:, kept].contiguous()
            x_BQD += layer.out(mixed)
            gate, up = layer.gate_up(_normed(x_BQD, layer.before_mlp)).chunk(2, dim=-1)
            x_BQD += layer.down(F.silu(gate).mul_(up))
        return _normed(x_BQD, weights.norm)

    def _angles(self, position_BQ: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (B, Q, H + K, E) of all heads.

        Queries take the scale of the scores too. The first half of the sines is negative, so that
        a rotation is a sum of two products.
        """
        weights = self.weights
        cos, sin = weights.rotary(torch.empty(0), position_BQ)
        half = cos.shape[-1] // 2
        sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
        scale = torch.ones(weights.heads + weights.key_heads, 1)
        scale[: weights.heads] = weights.head_size**-0.5
        return (cos[:, :, None] * scale).to(dtype), (sin[:, :, None] * scale).to(dtype)

    def _heads(
        self, layer: LeanLayer, x_BQD: Tensor, angles: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, Q, H, E), keys and values (B, Q, K, E) with their positions."""
        weights = self.weights
        rotated = weights.heads + weights.key_heads
        heads = layer.query_key_value(x_BQD).unflatten(-1, (-1, weights.head_size))
        both, value = heads[:, :, :rotated], heads[:, :, rotated:]
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = both.split([weights.heads, weights.key_heads], dim=2)
            normed = (_normed(query, layer.query_norm), _normed(key, layer.key_norm))
            both = torch.cat(normed, dim=2)
        if layer.rotates:
            both = _rotate(both, *angles)
            return both[:, :, : weights.heads], both[:, :, weights.heads :], value
        query, key = both.split([weights.heads, weights.key_heads], dim=2)
        return query * weights.head_size**-0.5, key, value


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def _normed(x: Tensor, norm: RmsNorm) -> Tensor:
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.epsilon)
