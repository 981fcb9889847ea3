"""Weight-only int8 and int4 matrices on a CPU, by the kernels of torch.

The kernels read the quantised weight and are fastest for the few rows of a decoding step. Other
rows are multiplied by a packed bfloat16 copy, where there is one (figures in docs/log.md).

Shapes: M rows, N outputs, K inputs, G groups of inputs, R ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gritlm.errors import ModelError
from gritlm.lm.lean.onednn import Projection, pack

GROUP = 32  # inputs that share a scale and a zero point in int4
# Rows of a step that the kernels multiply. They are faster than the copy for 4, and as fast for 8,
# the sequences of a server by default: so a sequence has the same steps alone and next to others.
FEW = 8
_MANY = 48  # rows for which an int8 weight is faster converted for each product

_STEP = 16  # inputs that the int8 kernel reads together; it would read beyond the end of others

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

    def __init__(self, values_NK: Tensor, scales_N: Tensor, *, copied: bool) -> None:
        self.values = values_NK
        self.scales = scales_N
        # The whole numbers are exact in bfloat16, so the scales are applied to the product.
        self._copy = pack(values_NK.bfloat16(), None) if copied else None

    @classmethod
    def of(cls, weight_NK: Tensor, *, copied: bool) -> Int8Weight:
        """Quantise a weight.

        Raises:
            ModelError: for sizes that the kernel does not take.
        """
        outputs, inputs = weight_NK.shape
        if inputs % _STEP:
            raise ModelError(
                f"int8 takes layers with a multiple of {_STEP} inputs, this one has {inputs} and "
                f"{outputs} outputs; leave quantization out"
            )
        largest_N = weight_NK.abs().amax(dim=1).float()
        scales_N = (largest_N / 127).clamp(min=1e-12).to(weight_NK.dtype)
        values_NK = (weight_NK.float() / scales_N.float()[:, None]).round_().clamp_(-127, 127)
        return cls(values_NK.to(torch.int8), scales_N, copied=copied)

    def rows(self, start: int, stop: int) -> Int8Weight:
        """Return a part of the outputs, which shares their memory."""
        return Int8Weight(self.values[start:stop], self.scales[start:stop], copied=False)

    def whole(self) -> Tensor:
        """Return the weight (N, K) in float32."""
        return self.values.float() * self.scales.float()[:, None]

    def multiply(self, x_MK: Tensor, *, step: bool = True) -> Tensor:
        """Return the product (M, N) with rows of inputs.

        Args:
            x_MK: the inputs.
            step: whether each row is the only token of its sequence in this pass.
        """
        if self._copy is not None and (len(x_MK) > FEW or not step):
            return self._copy(x_MK).mul_(self.scales)
        if len(x_MK) > _MANY:
            return F.linear(x_MK, self.values.to(x_MK.dtype)).mul_(self.scales)
        return torch._weight_int8pack_mm(x_MK, self.values, self.scales)


class LowRank:
    """A product of two thin matrices in 8 bits, that of a LoRA, next to a quantised weight.

    Args:
        down: the first factor, R outputs by K inputs.
        up: the second factor, scaled, N outputs by R inputs.
    """

    def __init__(self, down: Int8Weight, up: Int8Weight) -> None:
        self.down = down
        self.up = up

    @classmethod
    def of(cls, down_RK: Tensor, up_NR: Tensor) -> LowRank:
        """Quantise both factors; zeros fill the ranks up to a number that the kernel takes."""
        more = -len(down_RK) % _STEP
        down = Int8Weight.of(F.pad(down_RK, (0, 0, 0, more)), copied=False)
        return cls(down, Int8Weight.of(F.pad(up_NR, (0, more)), copied=False))

    def multiply(self, x_MK: Tensor) -> Tensor:
        """Return the product (M, N) with rows of inputs."""
        return self.up.multiply(self.down.multiply(x_MK))

    def rows(self, start: int, stop: int) -> LowRank:
        """Return a part of the outputs, which shares their memory."""
        return LowRank(self.down, self.up.rows(start, stop))

    def whole(self) -> Tensor:
        """Return the matrix (N, K) in float32."""
        return self.up.whole() @ self.down.whole()


class Int4Weight:
    """A weight in 4 bits with a scale and a zero point for each group of inputs.

    Args:
        values: whole numbers from 0 to 15, in the layout of the kernel.
        scales_GN2: scale and zero point, in the dtype of the inputs.
        low_rank: term that the kernel does not compute; None for none.
        copy: linear layer that multiplies many rows; None for the kernel.
    """

    def __init__(
        self,
        values: Tensor,
        scales_GN2: Tensor,
        low_rank: LowRank | None = None,
        copy: Projection | None = None,
    ) -> None:
        self.values = values
        self.scales = scales_GN2
        self.low_rank = low_rank
        self._copy = copy

    @classmethod
    def of(cls, weight_NK: Tensor, *, copied: bool, low_rank: LowRank | None = None) -> Int4Weight:
        """Quantise a weight.

        Args:
            weight_NK: the weight, with the term of low rank in it.
            copied: whether a packed copy multiplies many rows.
            low_rank: term that is not quantised: steps of 4 bits are larger than most of what an
                adapter changes.

        Raises:
            ModelError: for sizes that the kernel does not take.
        """
        outputs, inputs = weight_NK.shape
        if outputs % _OUTPUTS or inputs % GROUP:
            raise ModelError(
                f"int4 takes layers with a multiple of {GROUP} inputs and of {_OUTPUTS} outputs, "
                f"this one has {inputs} and {outputs}; take quantization='int8'"
            )
        base_NK = weight_NK.float() - (0 if low_rank is None else low_rank.whole())
        groups_NGI = base_NK.unflatten(1, (-1, GROUP))
        least_NG, largest_NG = groups_NGI.aminmax(dim=2)
        scale_NG = ((largest_NG - least_NG) / 15).clamp(min=1e-12).to(weight_NK.dtype)
        middle_NG = (least_NG + 8 * scale_NG.float()).to(weight_NK.dtype)
        scale_NG1 = scale_NG.float()[:, :, None]
        middle_NG1 = middle_NG.float()[:, :, None]
        values_NGI = ((groups_NGI - middle_NG1) / scale_NG1).round_().add_(8).clamp_(0, 15)
        values_NK = values_NGI.flatten(1).to(torch.int32)
        copy = None
        if copied:
            rounded_NK = ((values_NGI - 8) * scale_NG1 + middle_NG1).flatten(1)
            rounded_NK += 0 if low_rank is None else low_rank.whole()
            copy = pack(rounded_NK.bfloat16(), None)
        scales_GN2 = torch.stack([scale_NG, middle_NG], dim=2).transpose(0, 1).contiguous()
        packed = torch._convert_weight_to_int4pack_for_cpu(values_NK, 1)
        return cls(packed, scales_GN2, low_rank, copy)

    def rows(self, start: int, stop: int) -> Int4Weight | None:
        """Return a part of the outputs, which shares their memory; None if blocks would be cut."""
        if start % _BLOCK or (stop % _BLOCK and stop != len(self.values)):
            return None
        low_rank = None if self.low_rank is None else self.low_rank.rows(start, stop)
        scales_GN2 = self.scales[:, start:stop].contiguous()
        return Int4Weight(self.values[start:stop], scales_GN2, low_rank)

    def multiply(self, x_MK: Tensor, *, step: bool = True) -> Tensor:
        """Return the product (M, N) with rows of inputs.

        Args:
            x_MK: the inputs.
            step: whether each row is the only token of its sequence in this pass.
        """
        if self._copy is not None and (len(x_MK) > FEW or not step):
            return self._copy(x_MK)
        y_MN = torch._weight_int4pack_mm_for_cpu(x_MK, self.values, GROUP, self.scales)
        return y_MN if self.low_rank is None else y_MN.add_(self.low_rank.multiply(x_MK))


QuantizedWeight = Int8Weight | Int4Weight
