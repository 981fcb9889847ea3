"""Check that a merged model computes the same states as the model with its adapter.

A sentence is computed with the separate adapter, then with the merged weights. A difference means
that the merge changed other weights than the adapter does.

Shapes: L positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gritlm.errors import ModelError

_LENGTH = 12
# Bounds on |merged - unmerged| / |unmerged|. Merging rounds each weight once more; measured
# differences are 2e-6, 0.008 and 0.023 (the default model).
_BOUNDS = {torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.15}
_QUANTISED_BOUND = 0.5  # merged weights are quantised again

States = dict[str, Tensor]


@torch.no_grad()
def read_sentence(model: Any, extra_ids: Sequence[int] = ()) -> States:
    """Return the last hidden states (L, D) and logits (L, V) of a sentence (causal attention).

    Args:
        model: the model with its LM head.
        extra_ids: additional token ids, such as tokens that an adapter added.
    """
    embedding = model.get_input_embeddings().weight
    ids_L = torch.linspace(0, len(embedding) - 1, _LENGTH).long()
    ids_L = torch.cat([ids_L, torch.tensor([*extra_ids], dtype=torch.long)])
    output = model(_on_device(model, ids_L[None]), output_hidden_states=True, use_cache=False)
    return {
        "hidden states": output.hidden_states[-1][0].float().cpu(),
        "logits": output.logits[0].float().cpu(),
    }


def require_equal(unmerged: States, merged: States, model: Any, adapter: str) -> None:
    """Refuse a merge that changed the states by more than rounding.

    Args:
        unmerged: states with the separate adapter.
        merged: states with the merged weights.
        model: the merged model.
        adapter: name of the adapter, for the message.

    Raises:
        ModelError: for a larger difference, with its bound.
    """
    bound = _QUANTISED_BOUND if is_quantised(model) else _BOUNDS.get(model.dtype, 0.15)
    for name, before in unmerged.items():
        difference = float((merged[name] - before).norm() / before.norm().clamp_min(1e-12))
        if not difference <= bound:  # NaN is refused too
            raise ModelError(
                f"{adapter}: merged into the weights, the adapter gives other {name} (relative "
                f"difference {difference:.2g}, bound {bound:g} in {model.dtype}); load it with "
                "dtype='float32', or merge it with peft and load the merged folder"
            )


def is_quantised(model: Any) -> bool:
    return bool(getattr(model, "is_quantized", False))


def _on_device(model: Any, ids_BL: Tensor) -> Tensor:
    place = model.get_input_embeddings().weight.device
    return ids_BL if place.type == "meta" else ids_BL.to(place)
