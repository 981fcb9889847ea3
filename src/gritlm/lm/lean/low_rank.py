"""Plain LoRA in the lean forward pass: low-rank terms next to the weights of the base.

The rows of a pass may have different adapters: the terms of all adapters are computed side by side,
and each row keeps those of its own.

Shapes: B rows, I inputs, R ranks of all layers and adapters side by side, O outputs of all layers
side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gritlm.lm.adapters.plain import LoraLinear
from gritlm.lm.lean.linears import matrix
from gritlm.lm.lean.onednn import Projection
from gritlm.lm.lean.weights import LeanLayer, LeanWeights

NO_ADAPTER = -1  # number of the adapter of a row without one


class AdapterRows:
    """The adapter of each row of a pass, set before it. Only one thread may use it."""

    def __init__(self) -> None:
        self._adapter_B = torch.empty(0, dtype=torch.long)
        self._masks: dict[tuple[int, ...], Tensor] = {}

    def choose(self, adapters: Sequence[int]) -> None:
        """Set the number of the adapter of each row; :data:`NO_ADAPTER` for none."""
        self._adapter_B = torch.tensor(adapters)
        self._masks.clear()

    def mask(self, owners: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a mask (B, 1, R) that is 1 where a rank belongs to the adapter of the row.

        Args:
            owners: number of the adapter of each rank.
            dtype: number format of the mask.
        """
        if owners not in self._masks:  # the same for most layers
            own_BR = self._adapter_B[:, None] == torch.tensor(owners)
            self._masks[owners] = own_BR[:, None].to(dtype)
        return self._masks[owners]


@dataclass(frozen=True)
class _LowRank:
    """Terms of adapters.

    Attributes:
        dtype: number format of the pass.
        packed: whether their matrices are packed, as those of the base.
        rows: the adapter of each row; None if all rows have the only adapter.
    """

    dtype: torch.dtype
    packed: bool
    rows: AdapterRows | None

    def added(self, plain: Projection, columns: Sequence[Sequence[nn.Module]]) -> Projection:
        """Return a projection with the LoRA of its layers added, or itself if they have none.

        Args:
            plain: the projection of the base.
            columns: the layers of the projection in the model of each adapter.
        """
        firsts = [
            (number, each.lora_A.detach())
            for number, linears in enumerate(columns)
            for each in linears
            if isinstance(each, LoraLinear)
        ]
        if not firsts:
            return plain
        up_OR = torch.cat([_side_by_side(linears) for linears in columns], dim=1)
        down = self._matrix(torch.cat([first_RI for _, first_RI in firsts]))
        up = self._matrix(up_OR)
        owners = tuple(number for number, first_RI in firsts for _ in range(len(first_RI)))
        rows = self.rows
        if rows is None:
            return lambda x: plain(x) + up(down(x))
        return lambda x: plain(x) + up(down(x) * rows.mask(owners, self.dtype))

    def _matrix(self, weight: Tensor) -> Projection:
        return matrix(weight.to(self.dtype), packed=self.packed)


def with_low_rank(
    weights: LeanWeights, models: Sequence[Any], rows: AdapterRows | None = None
) -> LeanWeights:
    """Return the weights of a base, shared, with the LoRA of models over that base.

    Args:
        weights: weights of the base.
        models: causal models, or decoders without LM head, with LoRA on linear layers only.
        rows: the adapter of each row of a pass, as an index of ``models``; None for one model.
    """
    low = _LowRank(weights.embedding.dtype, weights.packed, rows)
    decoders = [model.base_model for model in models]
    head = None
    if weights.head is not None and models[0] is not decoders[0]:
        head = low.added(weights.head, [[model.lm_head] for model in models])
    layers = tuple(
        _layer(low, plain, [decoder.layers[number] for decoder in decoders])
        for number, plain in enumerate(weights.layers)
    )
    return replace(weights, layers=layers, head=head)


def _layer(low: _LowRank, plain: LeanLayer, layers: Sequence[Any]) -> LeanLayer:
    attentions = [layer.self_attn for layer in layers]
    mlps = [layer.mlp for layer in layers]
    three = [[each.q_proj, each.k_proj, each.v_proj] for each in attentions]
    return replace(
        plain,
        query_key_value=low.added(plain.query_key_value, three),
        out=low.added(plain.out, [[each.o_proj] for each in attentions]),
        gate_up=low.added(plain.gate_up, [[each.gate_proj, each.up_proj] for each in mlps]),
        down=low.added(plain.down, [[each.down_proj] for each in mlps]),
    )


def _side_by_side(linears: Sequence[Any]) -> Tensor:
    """Return the scaled second factors as one matrix (O, R), zero between different layers."""
    blocks = [
        each.scale * each.lora_B.detach().float()
        if isinstance(each, LoraLinear)
        else torch.zeros(each.out_features, 0)
        for each in linears
    ]
    return torch.block_diag(*blocks)
