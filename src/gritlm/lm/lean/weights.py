"""Weights of a decoder as the lean forward pass takes them, for families that it knows.

Shapes: D hidden size, E head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gritlm.lm.kv.rope import LENGTH_DEPENDENT
from gritlm.lm.lean.linears import projection
from gritlm.lm.lean.onednn import Projection
from gritlm.lm.quantization.layers import QuantizedLinear

# Decoders with rotary positions, RMS norms before attention and MLP, and a gated SiLU.
_FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3")
_DTYPES = (torch.bfloat16, torch.float32)
_PLAIN = (nn.Linear, nn.Embedding, nn.ModuleList, QuantizedLinear)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# Module of the hooks that transformers sets itself; they do nothing unless outputs are requested.
_CAPTURING = "transformers.utils.output_capturing"


@dataclass(frozen=True)
class RmsNorm:
    """Weight (D,) and epsilon of an RMS norm."""

    weight: Tensor
    epsilon: float


@dataclass(frozen=True)
class LeanLayer:
    """Weights of a layer.

    Attributes:
        before_attention: norm of the input of the attention.
        query_key_value: the three projections side by side.
        query_norm: norm of each query head (E,); None without one.
        key_norm: norm of each key head (E,); None without one.
        out: projection of the attention's result.
        before_mlp: norm of the input of the MLP.
        gate_up: both projections side by side.
        down: projection back to the hidden size.
        window: sliding window in tokens; None for full attention.
        rotates: whether queries and keys have rotary positions.
    """

    before_attention: RmsNorm
    query_key_value: Projection
    query_norm: RmsNorm | None
    key_norm: RmsNorm | None
    out: Projection
    before_mlp: RmsNorm
    gate_up: Projection
    down: Projection
    window: int | None
    rotates: bool


@dataclass(frozen=True)
class LeanWeights:
    """Weights of a decoder and its LM head.

    Attributes:
        embedding: token embeddings (V, D).
        layers: the layers.
        norm: norm after the last layer.
        head: LM head; None for a decoder without one.
        rotary: module of the model that returns cosines and sines of positions.
        heads: number of query heads.
        key_heads: number of key/value heads.
        head_size: head dimension E.
        packed: whether the matrices are packed copies.
    """

    embedding: Tensor
    layers: tuple[LeanLayer, ...]
    norm: RmsNorm
    head: Projection | None
    rotary: Any
    heads: int
    key_heads: int
    head_size: int
    packed: bool


def lean_weights(model: Any, *, packed: bool) -> LeanWeights | None:
    """Return the weights of a model; None for one that the lean pass does not know.

    It knows models of some families as transformers makes them: all on the CPU, without hooks or
    adapters. Their linear layers may be quantised by gritlm.

    Args:
        model: a causal model, or a decoder without LM head.
        packed: whether the weights are copied into packed ones; else they are shared.
    """
    decoder = model.base_model
    if not is_known(model):
        return None
    attention = decoder.layers[0].self_attn
    head = None if model is decoder else projection([model.lm_head], packed=packed)
    return LeanWeights(
        embedding=decoder.embed_tokens.weight,
        layers=tuple(_layer(each, decoder.config, packed) for each in decoder.layers),
        norm=_norm(decoder.norm),
        head=head,
        rotary=decoder.rotary_emb,
        heads=attention.q_proj.out_features // attention.head_dim,
        key_heads=attention.k_proj.out_features // attention.head_dim,
        head_size=attention.head_dim,
        packed=packed,
    )


def is_known(model: Any) -> bool:
    """Return whether the lean pass knows a model, with or without its LM head."""
    decoder = model.base_model
    config = decoder.config
    family = type(decoder).__name__.removesuffix("Model")
    return (
        family in _FAMILIES
        and (model is decoder or type(model).__name__ == f"{family}ForCausalLM")
        and config._attn_implementation == "sdpa"
        and config.hidden_act == "silu"
        and _has_fixed_angles(decoder)
        and _is_window(getattr(config, "sliding_window", None))
        and all(w.device.type == "cpu" and w.dtype in _DTYPES for w in model.parameters())
        and len({w.dtype for w in model.parameters()}) == 1
        and all(_is_plain(module, family) for module in model.modules())
    )


def _has_fixed_angles(decoder: Any) -> bool:
    """Return whether whole heads are rotated, by angles that depend on the position alone."""
    rotary = decoder.rotary_emb
    head_size = decoder.layers[0].self_attn.head_dim
    return rotary.rope_type not in LENGTH_DEPENDENT and 2 * len(rotary.inv_freq) == head_size


def _is_window(size: object) -> bool:
    return size is None or (type(size) is int and size > 0)


def _is_plain(module: nn.Module, family: str) -> bool:
    """Return whether a module is one of transformers or torch, and nothing is attached to it."""
    hooks = [hook for name in _HOOKS for hook in getattr(module, name).values()]
    if "forward" in vars(module) or any(
        getattr(hook, "__module__", "") != _CAPTURING for hook in hooks
    ):
        return False
    kind = type(module)
    ours = kind.__module__ == f"transformers.models.{family.lower()}.modeling_{family.lower()}"
    return ours or kind in _PLAIN or kind.__name__ == "SiLUActivation"


def _layer(layer: Any, config: Any, packed: bool) -> LeanLayer:
    attention = layer.self_attn
    mlp = layer.mlp
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    return LeanLayer(
        before_attention=_norm(layer.input_layernorm),
        query_key_value=projection(projections, packed=packed),
        query_norm=_norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        key_norm=_norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
        out=projection([attention.o_proj], packed=packed),
        before_mlp=_norm(layer.post_attention_layernorm),
        gate_up=projection([mlp.gate_proj, mlp.up_proj], packed=packed),
        down=projection([mlp.down_proj], packed=packed),
        window=_window(attention, config),
        rotates=bool(getattr(attention, "use_rope", True)),
    )


def _norm(module: Any) -> RmsNorm:
    return RmsNorm(module.weight.detach(), float(module.variance_epsilon))


def _window(attention: Any, config: Any) -> int | None:
    """Return the sliding window of a layer, as its attention and the masks of the model use it."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None or (kinds and kinds[attention.layer_idx] != "sliding_attention"):
        return None
    return int(window)
