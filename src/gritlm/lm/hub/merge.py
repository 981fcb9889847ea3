"""Merging of adapters into the weights of a model, with a check of the result.

Plain LoRA is merged in float32, and rounded to the dtype of the weights. Other adapters are merged
by PEFT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from gritlm.lm.adapters.attach import adapter_of
from gritlm.lm.adapters.by_peft import PeftAdapter
from gritlm.lm.adapters.plain import PlainLora, plain_lora
from gritlm.lm.hub import lora, merge_check, tying


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
    return _merge(adapter_of(model, adapter, config, tensors), model, head, ids)


def plain_factors(model: Any, adapter: str) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """Return the factors, down (R, I) and scaled up (O, R), of each layer that plain LoRA changes.

    Args:
        model: the base model with its LM head, before or after merging.
        adapter: folder or hub id.
    """
    config = lora.read_config(adapter)
    tensors = load_file(lora.find_file(adapter, lora.WEIGHTS_FILE))
    found = plain_lora(model, adapter, config, tensors)
    layers = [] if found is None else found.layers
    return {each.layer: (each.one_RI, each.scale * each.other_OR.float()) for each in layers}


def merge_trained(peft_model: Any, name: str) -> Any:
    """Merge a PEFT adapter that is in memory, in place, and return the base model.

    Args:
        peft_model: the model with its adapter.
        name: name of the adapter, for messages.

    Raises:
        ModelError: for a merged model that computes other states.
    """
    model = peft_model.eval().get_base_model()
    return _merge(PeftAdapter(name, peft_model), model, tying.tied_head(model), [])


def _merge(
    attached: PlainLora | PeftAdapter, model: Any, head: nn.Module | None, ids: Sequence[int]
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


def _trained_tokens(config: dict[str, Any]) -> list[int]:
    """Return the first few ids of single tokens that an adapter trains."""
    found = config.get("trainable_token_indices") or config.get("token_indices") or []
    lists = found.values() if isinstance(found, dict) else [found]
    return [int(number) for numbers in lists for number in numbers[:4]]
