"""Plain LoRA on linear layers, merged into their weights or added to their outputs.

Other adapters are left to PEFT, whose import and layers take longer than loading the default model.

Shapes: O outputs of a layer, I inputs, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gritlm.errors import ModelError
from gritlm.lm.hub import lora

# Keys of a configuration that do not change the result of plain LoRA. PEFT takes adapters with
# other keys, or with other values of the keys in _PLAIN.
_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "target_modules",
    "task_type",
}
_PLAIN: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False),  # others change the base
}


@dataclass(frozen=True)
class LoraFactors:
    """The two factors of the LoRA of a linear layer."""

    name: str
    layer: nn.Linear
    one_RI: Tensor
    other_OR: Tensor
    scale: float

    def added(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return the output of the layer with that of the adapter added (a forward hook)."""
        low = inputs[0].float() @ self.one_RI.to(output.device, torch.float32).T
        more = low @ self.other_OR.to(output.device, torch.float32).T
        return (output.float() + self.scale * more).to(output.dtype)

    def require_finite(self, adapter: str) -> None:
        """Refuse factors with NaN or infinite values.

        Raises:
            ModelError: with the name of the layer.
        """
        if not (torch.isfinite(self.one_RI).all() and torch.isfinite(self.other_OR).all()):
            raise ModelError(
                f"{adapter}: {self.name}: the adapter has non-finite weights; it is damaged, "
                "fetch or train it again"
            )


def merged_weight(layer: nn.Linear, one_RI: Tensor, other_OR: Tensor, scale: float) -> Tensor:
    """Return the weight (O, I) of a layer with its LoRA merged in float32, in its own dtype."""
    weight_OI = layer.weight.data
    one_RI = one_RI.to(weight_OI.device, torch.float32)
    other_OR = other_OR.to(weight_OI.device, torch.float32)
    whole_OI = torch.addmm(weight_OI.float(), other_OR, one_RI, alpha=scale)
    return whole_OI.to(weight_OI.dtype)


class LoraLinear(nn.Module):
    """A linear layer with its LoRA added to its output; for inference only.

    Args:
        factors: the layer, which is shared, and its two factors.
    """

    def __init__(self, factors: LoraFactors) -> None:
        super().__init__()
        self.base_layer = factors.layer
        place = factors.layer.weight.device
        self.lora_A = nn.Parameter(factors.one_RI.to(place), requires_grad=False)
        self.lora_B = nn.Parameter(factors.other_OR.to(place), requires_grad=False)
        self.scale = factors.scale

    @property
    def weight(self) -> Tensor:
        """Weight of the layer without its LoRA; some models read its dtype."""
        return self.base_layer.weight

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.base_layer(x)
        low = F.linear(x.to(self.lora_A.dtype), self.lora_A)
        more = F.linear(low, self.lora_B)
        return (output + self.scale * more).to(output.dtype)

    def merged(self) -> Tensor:
        """Return the weight (O, I) that the layer has once its LoRA is merged."""
        return merged_weight(self.base_layer, self.lora_A, self.lora_B, self.scale)


def merged_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and values of the parameters that a model has once its LoRA is merged.

    A weight is merged when it is yielded, so one at a time is in memory.

    Args:
        model: a model, perhaps with plain LoRA.
    """
    owners = {name: each for name, each in model.named_modules() if isinstance(each, LoraLinear)}
    for name, parameter in model.named_parameters():
        owner, _, rest = name.rpartition(".base_layer.")
        if owner not in owners:
            if name.rpartition(".")[0] not in owners:  # not a factor
                yield name, parameter
        elif rest == "weight":
            yield f"{owner}.weight", owners[owner].merged()
        else:
            yield f"{owner}.{rest}", parameter


@dataclass(frozen=True)
class PlainLora:
    """An adapter with LoRA on linear layers only."""

    adapter: str
    layers: list[LoraFactors]

    @contextmanager
    def unmerged(self) -> Iterator[None]:
        with ExitStack() as hooks:
            for each in self.layers:
                hooks.callback(each.layer.register_forward_hook(each.added).remove)
            yield

    def merged(self, model: Any) -> Any:
        """Merge the adapter into the weights of the model, in place, and return the model."""
        for each in self.layers:
            each.require_finite(self.adapter)
            whole_OI = merged_weight(each.layer, each.one_RI, each.other_OR, each.scale)
            each.layer.weight.data = whole_OI
        return model

    def attached(self, model: Any) -> Any:
        """Replace the layers of the model by such with LoRA, in place, and return the model."""
        for each in self.layers:
            each.require_finite(self.adapter)
            parent, _, name = each.name.rpartition(".")
            setattr(model.get_submodule(parent), name, LoraLinear(each))
        return model


def plain_lora(
    model: nn.Module, adapter: str, config: dict[str, Any], tensors: Mapping[str, Tensor]
) -> PlainLora | None:
    """Return the LoRA layers of an adapter; None if PEFT has to take it.

    PEFT is needed for 4-bit layers, layers on disk or with three dimensions, and adapters without
    tensors for a layer in their configuration.

    Args:
        model: the base model.
        adapter: folder or hub id, for messages.
        config: configuration of the adapter.
        tensors: its tensors.

    Raises:
        ModelError: for a scale or ranks that do not fit the tensors.
    """
    targets = config.get("target_modules")
    if not is_plain(config) or not isinstance(targets, list):
        return None
    found = []
    ends = tuple(f".{target}" for target in targets)
    firsts = [value for key, value in tensors.items() if key.endswith(lora.LORA_A)]
    scale = _scale(adapter, config, {len(value) for value in firsts})
    for name, layer in model.named_modules():
        if f".{name}".endswith(ends):
            one = tensors.get(f"{lora.PREFIX}{name}{lora.LORA_A}")
            other = tensors.get(f"{lora.PREFIX}{name}{lora.LORA_B}")
            if type(layer) is not nn.Linear or layer.weight.is_meta or one is None or other is None:
                return None
            found.append(LoraFactors(name, layer, one, other, scale))
    return PlainLora(adapter, found) if 2 * len(found) == len(tensors) else None


def _scale(adapter: str, config: dict[str, Any], ranks: set[int]) -> float:
    """Return the scale of plain LoRA, alpha / rank."""
    alpha: Any = config.get("lora_alpha")
    rank: Any = config.get("r")
    if type(alpha) in (int, float) and alpha > 0 and type(rank) is int and ranks <= {rank}:
        return float(alpha / rank)
    found = ", ".join(map(str, sorted(ranks)))
    raise ModelError(
        f"{adapter}: {lora.CONFIG_FILE} has lora_alpha={alpha!r} and r={rank!r}, the tensors have "
        f"the rank {found}; restore the file"
    )


def is_plain(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration describes plain LoRA, which needs no PEFT."""
    known = all(config.get(name) in values for name, values in _PLAIN.items())
    return known and not any(
        value for name, value in config.items() if name not in {*_HARMLESS, *_PLAIN}
    )
