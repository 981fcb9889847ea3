"""Merging of adapters into the weights of a model, with a check of the result.

Plain LoRA is merged here, in float32, and rounded to the dtype of the weights. Other adapters are
merged by PEFT, whose import and layers take longer than loading the default model.

Shapes: O outputs of a layer, I inputs, R rank.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gritlm.errors import ModelError, one_line
from gritlm.lm.hub import lora, merge_check, tying

log = logging.getLogger(__name__)

# Keys of a configuration that do not change the result of plain LoRA. PEFT merges adapters with
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


def merge_adapter(model: Any, adapter: str) -> Any:
    """Merge an adapter into the weights of a model, in place, and return the model.

    Args:
        model: the base model with its LM head; see :func:`gritlm.lm.hub.lora.fit`.
        adapter: folder or hub id.

    Raises:
        ModelError: for an adapter that is incomplete, damaged or of another base, or a merged model
            that computes other states.
        OSError, SafetensorError: for files that cannot be downloaded or read.
    """
    config = lora.read_config(adapter)
    tensors = load_file(lora.find_file(adapter, lora.WEIGHTS_FILE))
    head = tying.tied_head(model, [key.removeprefix(lora.PREFIX) for key in tensors])
    ids = _trained_tokens(config)
    attached = _plain_lora(model, adapter, config, tensors) or _Peft.attach(
        model, adapter, config, tensors
    )
    return _merge(attached, model, head, ids)


def merge_trained(peft_model: Any, name: str) -> Any:
    """Merge a PEFT adapter that is in memory, in place, and return the base model.

    Args:
        peft_model: the model with its adapter.
        name: name of the adapter, for messages.

    Raises:
        ModelError: for a merged model that computes other states.
    """
    model = peft_model.eval().get_base_model()
    return _merge(_Peft(name, peft_model), model, tying.tied_head(model), [])


def _merge(
    attached: _PlainLora | _Peft, model: Any, head: nn.Module | None, ids: Sequence[int]
) -> Any:
    with attached.unmerged():
        before = merge_check.read_sentence(model, ids)
    if head is not None:
        tying.untie(head)
    merged = attached.merged(model)
    if head is not None:
        tying.tie_if_equal(merged)
    after = merge_check.read_sentence(merged, ids)
    merge_check.require_equal(before, after, merged, attached.adapter)
    return merged


@dataclass(frozen=True)
class _Layer:
    """A linear layer with the two factors of its LoRA."""

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

    def merge(self, adapter: str) -> None:
        weight_OI = self.layer.weight.data
        one_RI = self.one_RI.to(weight_OI.device, torch.float32)
        other_OR = self.other_OR.to(weight_OI.device, torch.float32)
        if not (torch.isfinite(one_RI).all() and torch.isfinite(other_OR).all()):
            raise ModelError(
                f"{adapter}: {self.name}: the adapter has non-finite weights; it is damaged, "
                "fetch or train it again"
            )
        whole_OI = torch.addmm(weight_OI.float(), other_OR, one_RI, alpha=self.scale)
        self.layer.weight.data = whole_OI.to(weight_OI.dtype)


@dataclass(frozen=True)
class _PlainLora:
    """An adapter with LoRA on linear layers only."""

    adapter: str
    layers: list[_Layer]

    @contextmanager
    def unmerged(self) -> Iterator[None]:
        with ExitStack() as hooks:
            for each in self.layers:
                hooks.callback(each.layer.register_forward_hook(each.added).remove)
            yield

    def merged(self, model: Any) -> Any:
        for each in self.layers:
            each.merge(self.adapter)
        return model


def _plain_lora(
    model: nn.Module, adapter: str, config: dict[str, Any], tensors: Mapping[str, Tensor]
) -> _PlainLora | None:
    """Return the LoRA layers of an adapter; None if PEFT has to merge it.

    PEFT is needed for 4-bit layers, layers on disk or with three dimensions, and adapters without
    tensors for a layer in their configuration.
    """
    targets = config.get("target_modules")
    if not _is_plain(config) or not isinstance(targets, list):
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
            found.append(_Layer(name, layer, one, other, scale))
    return _PlainLora(adapter, found) if 2 * len(found) == len(tensors) else None


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


def _is_plain(config: dict[str, Any]) -> bool:
    known = all(config.get(name) in values for name, values in _PLAIN.items())
    return known and not any(
        value for name, value in config.items() if name not in {*_HARMLESS, *_PLAIN}
    )


@dataclass(frozen=True)
class _Peft:
    """An adapter that is merged by PEFT."""

    adapter: str
    peft_model: Any

    @classmethod
    def attach(
        cls, model: Any, adapter: str, config: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> _Peft:
        from peft import PeftModel

        name = lora.describe(model)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            peft_model = PeftModel.from_pretrained(model, adapter)
        if not hasattr(peft_model, "merge_and_unload"):
            raise ModelError(
                f"{adapter}: an adapter of the type {config.get('peft_type')!r} has no weights to "
                "merge; gritlm takes LoRA and other adapters that can be merged"
            )
        # FutureWarning and DeprecationWarning are for peft's authors.
        messages = [one_line(w.message) for w in caught if issubclass(w.category, UserWarning)]
        if any("missing adapter keys" in message for message in messages):
            why = "the adapter has nothing for some of its layers"
            raise lora.foreign(adapter, config, name, why)
        _require_read(peft_model, adapter, tensors)
        for message in dict.fromkeys(messages):
            log.warning("%s: peft warns: %s", adapter, message)
        return cls(adapter, peft_model)

    @contextmanager
    def unmerged(self) -> Iterator[None]:
        yield  # PEFT wraps the layers in place

    def merged(self, _: Any) -> Any:
        return self.peft_model.merge_and_unload(safe_merge=True)


def _require_read(peft_model: Any, adapter: str, tensors: Iterable[str]) -> None:
    """Refuse an adapter with tensors that PEFT would ignore."""
    from peft import get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about saving
        known = get_peft_model_state_dict(peft_model, save_embedding_layers=True)
    if unread := sorted(set(tensors) - set(known) - set(peft_model.state_dict())):
        raise ModelError(
            f"{adapter}: {len(unread)} of its tensors have no place in the layers that its "
            f"{lora.CONFIG_FILE} names ({one_line(', '.join(unread[:3]))}); restore the file"
        )


def _trained_tokens(config: dict[str, Any]) -> list[int]:
    """Return the first few ids of single tokens that an adapter trains."""
    found = config.get("trainable_token_indices") or config.get("token_indices") or []
    lists = found.values() if isinstance(found, dict) else [found]
    return [int(number) for numbers in lists for number in numbers[:4]]
