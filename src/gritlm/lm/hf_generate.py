"""Generation by transformers, with a preallocated cache and an optional KV block as prefix.

Shapes: B rows, L prompt tokens, T tokens of the prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gritlm.errors import InputError
from gritlm.lm.generator import prefix_cache, require_block
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.unified import UnifiedLM

# Options with which transformers creates its own cache, or reorders it.
_OWN_CACHE = (
    "past_key_values",
    "cache_implementation",
    "assistant_model",
    "prompt_lookup_num_tokens",
    "compile_config",
)


@torch.inference_mode()
def hf_generate(
    lm: UnifiedLM,
    inputs: Tensor | Mapping[str, Any] | None,
    *,
    kv: KVBlock | None,
    pad_id: int | None,
    **options: Any,
) -> Any:
    """Generate token ids; see :meth:`gritlm.GritLM.generate`.

    Args:
        lm: the model.
        inputs: token ids (B, L), or a mapping with them.
        kv: KV block before every row.
        pad_id: padding token unless ``options`` has another one.
        **options: other arguments of ``generate`` in transformers.
    """
    ids_BL, mask_BL = _ids_and_mask(inputs, options)
    if options.get("generation_config") is None:
        options.setdefault("pad_token_id", pad_id)
    model = lm.causal if lm.compiled else lm.decoding
    if mask_BL is not None:
        options["attention_mask"] = mask_BL
    room = ids_BL.shape[1] + int(options.get("max_new_tokens") or 0)
    if kv is not None:
        return _behind(lm, model, ids_BL, kv, room, options)
    if _is_plain(model, options) and not lm.compiled:
        options |= {"past_key_values": lm.new_cache(room), "use_cache": True}
    return model.generate(ids_BL, **options)


def _behind(
    lm: UnifiedLM, model: Any, ids_BL: Tensor, kv: KVBlock, room: int, options: dict[str, Any]
) -> Any:
    """Generate after a KV block.

    transformers gets the ids of the block too; they are removed from the result.
    """
    require_block(lm, kv)
    if kv.end is not None:
        raise InputError(
            "generate(kv=...) counts positions by tokens, and those of this block's image share "
            "positions (M-RoPE); use chat(kv=...)"
        )
    if not _is_plain(model, options) or "streamer" in options or "max_length" in options:
        raise InputError(
            "generate(kv=...) takes neither beams, a cache, an assistant, a streamer nor "
            "max_length; leave them out (max_new_tokens counts the new ones)"
        )
    known_T = kv.token_ids.clamp(min=0)  # transformers looks up the placeholders of images too
    prefix_BT = known_T.to(ids_BL.device).expand(len(ids_BL), -1)
    mask_BL = options.pop("attention_mask", None)
    if mask_BL is None:
        mask_BL = torch.ones_like(ids_BL)
    copies = int(_option(model, options, "num_return_sequences") or 1)
    found = model.generate(
        torch.cat((prefix_BT, ids_BL), dim=1),
        attention_mask=torch.cat((torch.ones_like(prefix_BT), mask_BL), dim=1),
        past_key_values=prefix_cache(lm, kv, room=room, rows=len(ids_BL) * copies),
        **options | {"use_cache": True},
    )
    if isinstance(found, Tensor):
        return found[:, kv.tokens :]
    found.sequences = found.sequences[:, kv.tokens :]
    return found


def _option(model: Any, options: dict[str, Any], name: str) -> Any:
    """Return the value of an option: of the call, its ``generation_config``, or the model."""
    if options.get(name) is not None:
        return options[name]
    return getattr(options.get("generation_config") or model.generation_config, name, None)


def _is_plain(model: Any, options: dict[str, Any]) -> bool:
    """Return whether the preallocated cache can be used: without beams or cache options."""
    beams = _option(model, options, "num_beams") or 1
    has_own = any(_option(model, options, name) is not None for name in _OWN_CACHE)
    return beams == 1 and not has_own and options.get("use_cache") is not False


def _ids_and_mask(inputs: Any, options: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    tensors = dict(inputs) if isinstance(inputs, Mapping) else {}
    if inputs is not None and not isinstance(inputs, Mapping):
        tensors["input_ids"] = inputs
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        if name in options:
            tensors.setdefault(name, options.pop(name))
    ids = tensors.pop("input_ids", None)
    mask = tensors.pop("attention_mask", None)
    tensors.pop("token_type_ids", None)
    if tensors:
        raise InputError(f"generate() got inputs it does not know: {', '.join(map(str, tensors))}")
    if not isinstance(ids, Tensor) or ids.ndim not in (1, 2) or ids.is_floating_point():
        raise InputError(
            f"generate() got {type(ids).__name__}; expected a tensor of token ids (rows, tokens) "
            "or the mapping a tokenizer returns with return_tensors='pt'"
        )
    if ids.numel() == 0:
        raise InputError("generate() got no token ids; expected at least one")
    return (ids if ids.ndim == 2 else ids[None]), mask
