"""Adapters attached to a model: found by their files, merged or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from gritlm.lm.adapters.by_peft import PeftAdapter
from gritlm.lm.adapters.plain import PlainLora, plain_lora
from gritlm.lm.attention import views
from gritlm.lm.hub import lora
from gritlm.lm.hub.load_errors import explained
from gritlm.lm.unified import UnifiedLM


def adapter_of(
    model: Any, adapter: str, config: dict[str, Any], tensors: Mapping[str, Tensor]
) -> PlainLora | PeftAdapter:
    """Return an adapter for a model; PEFT wraps the layers of the model in place if it is needed.

    Args:
        model: the base model with its LM head.
        adapter: folder or hub id.
        config: its configuration.
        tensors: its tensors.

    Raises:
        ModelError: for an adapter that is incomplete, damaged or of another base.
    """
    plain = plain_lora(model, adapter, config, tensors)
    return PeftAdapter.attach(model, adapter, config, tensors) if plain is None else plain


def attach(base: UnifiedLM, adapter: str, *, head: bool = True) -> UnifiedLM:
    """Return a model with an adapter that is not merged, over the shared weights of a base.

    The base is not changed: the model consists of new modules with the same tensors.

    Args:
        base: the base model with its LM head.
        adapter: folder or hub id.
        head: whether the new model keeps the LM head.

    Raises:
        ModelError: for an adapter that cannot be loaded, or of another base.
    """
    model = views.shell(base.causal)
    with explained(adapter):
        lora.fit(model, adapter)
        config = lora.read_config(adapter)
        tensors = load_file(lora.find_file(adapter, lora.WEIGHTS_FILE))
        found = adapter_of(model, adapter, config, tensors)
        model = found.attached(model).eval()
    plain = isinstance(found, PlainLora)
    return UnifiedLM(
        model if head else model.base_model,
        compiled=base.compiled,
        base=base if plain else None,
    )
