"""Quantised linear layers in the place of those of a model, and the replacement itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gritlm.errors import ModelError
from gritlm.lm.lean.onednn import can_pack, joined_bias
from gritlm.lm.quantization.matrices import Int4Weight, Int8Weight, LowRank, QuantizedWeight

log = logging.getLogger(__name__)

# Layers of the same input, whose weights are quantised as one: the lean pass multiplies them so.
_GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_LEAST_SHARE = 0.9  # of the parameters outside the embeddings that linear layers have to hold


class JointWeight:
    """The quantised weight of one or several linear layers side by side, with their biases.

    Args:
        weight: the quantised weight.
        bias_N: bias of all outputs; None without one.
    """

    def __init__(self, weight: QuantizedWeight, bias_N: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias_N

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs (..., N) for inputs (..., K)."""
        step = x.ndim < 3 or x.shape[-2] == 1
        y_MN = self.weight.multiply(x.reshape(-1, x.shape[-1]), step=step)
        if self.bias is not None:
            y_MN += self.bias
        return y_MN.view(*x.shape[:-1], -1)


class QuantizedLinear(nn.Module):
    """A linear layer with a quantised weight; for inference on a CPU only.

    Args:
        joint: weight of this layer, or of several layers of the same input.
        start: first output of this layer in the joint weight.
        linear: the layer that is replaced.

    Attributes:
        joint: as the argument.
        values: the whole numbers. They are a buffer: their layout depends on the machine.
        scales: scales, and zero points if there are any, by which the weights are identified.
    """

    def __init__(self, joint: JointWeight, start: int, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.joint = joint
        self._outputs = slice(start, start + linear.out_features)
        own = joint.weight.rows(self._outputs.start, self._outputs.stop)
        self._own = None if own is None else JointWeight(own, _detached(linear.bias))
        shown = joint.weight if own is None else own
        self.register_buffer("values", shown.values, persistent=False)
        self.scales = nn.Parameter(shown.scales, requires_grad=False)
        if isinstance(shown, Int4Weight) and shown.low_rank is not None:
            for name, factor in (("down", shown.low_rank.down), ("up", shown.low_rank.up)):
                self.register_buffer(name, factor.values, persistent=False)
                self.register_parameter(
                    f"{name}_scales", nn.Parameter(factor.scales, requires_grad=False)
                )

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (..., N) for inputs (..., K).

        Raises:
            ModelError: when gradients are wanted.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            raise ModelError(
                "a quantised model has no gradients; load it without quantization to train it"
            )
        if self._own is None:
            return self.joint(x)[..., self._outputs]
        return self._own(x)

    def _apply(self, *_: Any, **__: Any) -> Any:
        raise ModelError(
            "a quantised model cannot be moved or converted; load it with the device and dtype "
            "that it should have"
        )


def quantize(
    model: Any,
    quantization: str,
    *,
    joined: bool,
    factors: Mapping[nn.Module, tuple[Tensor, Tensor]] | None = None,
) -> None:
    """Replace the linear layers of a model on a CPU by quantised ones, in place.

    The embeddings keep their dtype. The LM head has 8 bits in both formats.

    Args:
        model: a decoder, with or without its LM head.
        quantization: ``int8`` or ``int4``.
        joined: whether layers of the same input are quantised as one, for the lean pass.
        factors: the two factors, down (R, K) and up (N, R), of the adapter that is merged into each
            layer. int4 keeps them apart.

    Raises:
        ModelError: for a model most of whose weights are not in linear layers, or that the format
            does not fit.
    """
    decoder = model.base_model
    _require_linear(decoder, quantization)
    copied = _copies_fit(decoder, model.dtype)
    with torch.inference_mode(False), torch.no_grad():
        for name, parent in list(decoder.named_modules()):
            for group in _groups(parent, joined=joined):
                linears: list[Any] = [parent.get_submodule(each) for each in group]
                low_rank = _low_rank(linears, factors or {}, model.dtype)
                with _naming(f"{name}.{group[0]}"):
                    weight = _weight(linears, quantization, low_rank, copied=copied)
                _replace(parent, group, JointWeight(weight, joined_bias(linears)))
        head = model.get_output_embeddings()
        if head is not None:
            joint = JointWeight(Int8Weight.of(head.weight, copied=False), _detached(head.bias))
            model.set_output_embeddings(QuantizedLinear(joint, 0, head))


def is_quantized(model: nn.Module) -> bool:
    """Return whether a model has quantised layers: ours, or those of transformers."""
    ours = any(isinstance(module, QuantizedLinear) for module in model.modules())
    return ours or getattr(model, "hf_quantizer", None) is not None


def quantized_parameters(model: Any) -> int:
    """Return the number of quantised weights, less their scales, which ``parameters()`` counts.

    A head that was tied to the embeddings adds none.
    """
    layers = [each for each in model.modules() if isinstance(each, QuantizedLinear)]
    head = model.get_output_embeddings() if model.config.tie_word_embeddings else None
    whole = sum(each.in_features * each.out_features for each in layers if each is not head)
    return whole - sum(scales.numel() for each in layers for scales in each.parameters())


def joint_of(linears: Sequence[nn.Module]) -> JointWeight | None:
    """Return the joint weight of exactly these layers; None if they have none."""
    layers = [each for each in linears if isinstance(each, QuantizedLinear)]
    if len(layers) < len(linears) or len({each.joint for each in layers}) > 1:
        return None
    joint = layers[0].joint
    whole = sum(each.out_features for each in layers) == len(joint.weight.values)
    return joint if whole else None


def _groups(parent: nn.Module, *, joined: bool) -> list[list[str]]:
    """Return the names of the linear layers below a module, those of the same input together."""
    names = [name for name, child in parent.named_children() if type(child) is nn.Linear]
    together = [list(group) for group in _GROUPS if joined and set(group) <= set(names)]
    return together + [[name] for name in names if not any(name in group for group in together)]


def _weight(
    linears: Sequence[Any], quantization: str, low_rank: LowRank | None, *, copied: bool
) -> QuantizedWeight:
    weight_NK = torch.cat([linear.weight for linear in linears])
    if quantization == "int8":
        return Int8Weight.of(weight_NK, copied=copied)
    return Int4Weight.of(weight_NK, copied=copied, low_rank=low_rank)


def _low_rank(
    linears: Sequence[Any],
    factors: Mapping[nn.Module, tuple[Tensor, Tensor]],
    dtype: torch.dtype,
) -> LowRank | None:
    """Return the factors of layers side by side; None if they have none."""
    pairs = [factors.get(each) or _no_factors(each) for each in linears]
    down_RK = torch.cat([down.float() for down, _ in pairs])
    if not len(down_RK):
        return None
    up_NR = torch.block_diag(*(up.float() for _, up in pairs))
    return LowRank.of(down_RK.to(dtype), up_NR.to(dtype))


def _no_factors(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    return torch.zeros(0, linear.in_features), torch.zeros(linear.out_features, 0)


@contextmanager
def _naming(layer: str) -> Iterator[None]:
    """Put the name of a layer in front of an error."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{layer}: {error}") from None


def _replace(parent: nn.Module, names: Sequence[str], joint: JointWeight) -> None:
    start = 0
    for name in names:
        linear: Any = parent.get_submodule(name)
        setattr(parent, name, QuantizedLinear(joint, start, linear))
        start += linear.out_features


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()


def _require_linear(decoder: Any, quantization: str) -> None:
    """Refuse a model with most weights elsewhere, such as in the experts of a mixture."""
    embeddings = decoder.get_input_embeddings().weight.numel()
    inner = sum(each.numel() for each in decoder.parameters()) - embeddings
    linear = sum(each.weight.numel() for each in decoder.modules() if type(each) is nn.Linear)
    if linear < _LEAST_SHARE * inner:
        raise ModelError(
            f"{type(decoder).__name__}: quantization={quantization!r} takes models of linear "
            f"layers, here they have {100 * linear // max(1, inner)} % of the weights (experts of "
            "a mixture have none); leave quantization out"
        )


def free_memory() -> int:
    """Return the bytes of main memory that are free, or can be freed without swapping."""
    import psutil  # missing where only the GPU is used

    return int(psutil.virtual_memory().available)


def _copies_fit(decoder: Any, dtype: torch.dtype) -> bool:
    """Return whether packed copies of the weights are useful and fit into the free memory."""
    if dtype != torch.bfloat16 or not can_pack():
        return False
    size = sum(2 * each.weight.numel() for each in decoder.modules() if type(each) is nn.Linear)
    free = free_memory()
    if 2 * size > free:
        log.info("no copies of quantised weights: %d bytes, %d bytes free", size, free)
        return False
    return True
