"""Weight-only int8 and int4 matrices on a CPU, by the kernels of torch.

The kernels read the quantised weight and are fastest for few rows. More rows are multiplied by a
packed bfloat16 copy, where there is one (figures in docs/log.md).

Shapes: M rows, N outputs, K inputs, G groups of inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gritlm.errors import ModelError
from gritlm.lm.lean.onednn import pack

GROUP = 32  # inputs that share a scale and a zero point in int4
_MANY = 48  # rows for which an int8 weight is faster converted for each product

# Bounds of the int4 kernel: outputs in a block, and blocks that can be taken out of a weight.
_OUTPUTS = 16
_BLOCK = 64


class Int8Weight:
    """A weight in 8 bits with a scale for each output.

    Args:
        values_NK: whole numbers, as int8.
        scales_N: scales, in the dtype of the inputs.
        copied: whether a packed copy multiplies many rows.
    """

    FEW = 4  # rows for which the kernel is faster than the packed copy

    def __init__(self, values_NK: Tensor, scales_N: Tensor, *, copied: bool) -> None:
        self.values = values_NK
        self.scales = scales_N
        # The whole numbers are exact in bfloat16, so the scales are applied to the product.
        self._copy = pack(values_NK.bfloat16(), None) if copied else None

    @classmethod
    def of(cls, weight_NK: Tensor, *, copied: bool) -> Int8Weight:
        """Quantise a weight."""
        largest_N = weight_NK.abs().amax(dim=1).float()
        scales_N = (largest_N / 127).clamp(min=1e-12).to(weight_NK.dtype)
        values_NK = (weight_NK.float() / scales_N.float()[:, None]).round_().clamp_(-127, 127)
        return cls(values_NK.to(torch.int8), scales_N, copied=copied)

    def rows(self, start: int, stop: int) -> Int8Weight:
        """Return a part of the outputs, which shares their memory."""
        return Int8Weight(self.values[start:stop], self.scales[start:stop], copied=False)

    def multiply(self, x_MK: Tensor) -> Tensor:
        """Return the product (M, N) with rows of inputs."""
        rows = len(x_MK)
        if self._copy is not None and rows > self.FEW:
            return self._copy(x_MK).mul_(self.scales)
        if rows > _MANY:
            return F.linear(x_MK, self.values.to(x_MK.dtype)).mul_(self.scales)
        return torch._weight_int8pack_mm(x_MK, self.values, self.scales)


class Int4Weight:
    """A weight in 4 bits with a scale and a zero point for each group of inputs.

    Args:
        values: whole numbers from 0 to 15, in the layout of the kernel.
        scales_GN2: scale and zero point, in the dtype of the inputs.
        copy: linear layer that multiplies many rows; None for the kernel.
    """

    FEW = 8

    def __init__(self, values: Tensor, scales_GN2: Tensor, copy: Any = None) -> None:
        self.values = values
        self.scales = scales_GN2
        self._copy = copy

    @classmethod
    def of(cls, weight_NK: Tensor, *, copied: bool) -> Int4Weight:
        """Quantise a weight.

        Raises:
            ModelError: for sizes that the kernel does not take.
        """
        outputs, inputs = weight_NK.shape
        if outputs % _OUTPUTS or inputs % GROUP:
            raise ModelError(
                f"int4 takes layers with a multiple of {GROUP} inputs and of {_OUTPUTS} outputs, "
                f"this one has {inputs} and {outputs}; take quantization='int8'"
            )
        groups_NGI = weight_NK.float().unflatten(1, (-1, GROUP))
        least_NG, largest_NG = groups_NGI.aminmax(dim=2)
        scale_NG = ((largest_NG - least_NG) / 15).clamp(min=1e-12).to(weight_NK.dtype)
        middle_NG = (least_NG + 8 * scale_NG.float()).to(weight_NK.dtype)
        scale_NG1 = scale_NG.float()[:, :, None]
        middle_NG1 = middle_NG.float()[:, :, None]
        values_NGI = ((groups_NGI - middle_NG1) / scale_NG1).round_().add_(8).clamp_(0, 15)
        values_NK = values_NGI.flatten(1).to(torch.int32)
        copy = None
        if copied:
            rounded_NGI = (values_NGI - 8) * scale_NG1 + middle_NG1
            copy = pack(rounded_NGI.flatten(1).bfloat16(), None)
        scales_GN2 = torch.stack([scale_NG, middle_NG], dim=2).transpose(0, 1).contiguous()
        packed = torch._convert_weight_to_int4pack_for_cpu(values_NK, 1)
        return cls(packed, scales_GN2, copy)

    def rows(self, start: int, stop: int) -> Int4Weight | None:
        """Return a part of the outputs, which shares their memory; None if blocks would be cut."""
        if start % _BLOCK or (stop % _BLOCK and stop != len(self.values)):
            return None
        return Int4Weight(self.values[start:stop], self.scales[:, start:stop].contiguous())

    def multiply(self, x_MK: Tensor) -> Tensor:
        """Return the product (M, N) with rows of inputs."""
        if self._copy is not None and len(x_MK) > self.FEW:
            return self._copy(x_MK)
        return torch._weight_int4pack_mm_for_cpu(x_MK, self.values, GROUP, self.scales)


QuantizedWeight = Int8Weight | Int4Weight
WEIGHTS: dict[str, Any] = {"int8": Int8Weight, "int4": Int4Weight}
