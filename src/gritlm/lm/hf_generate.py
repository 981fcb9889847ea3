"""transformers' own ``generate`` on the causal view, with a preallocated cache and a KV prefix.

Shapes: B rows, L prompt tokens, T tokens of the prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gritlm.errors import InputError
from gritlm.lm.generator import prefix_cache
from gritlm.lm.kv import KVBlock
from gritlm.lm.model import UnifiedLM

# With one of these transformers wants a cache of its own making.
_OWN_CACHE = (
    "past_key_values", "use_cache", "cache_implementation", "num_beams", "assistant_model",
    "prompt_lookup_num_tokens", "generation_config", "compile_config",
)  # fmt: skip


@torch.inference_mode()
def hf_generate(
    lm: UnifiedLM, inputs: Tensor | Mapping[str, Any], *, kv: KVBlock | None, pad_id: int | None,
    **options: Any,
) -> Any:  # fmt: skip
    """See :meth:`gritlm.GritLM.generate`."""
    ids_BL, mask_BL = _ids_and_mask(inputs, options)
    if mask_BL is None:
        mask_BL = torch.ones_like(ids_BL)
    options.setdefault("pad_token_id", pad_id)
    own = [name for name in _OWN_CACHE if options.get(name) is not None]
    model = lm.causal if lm.compiled else lm.decoding
    if kv is None:
        if not own and not lm.compiled:
            room = ids_BL.shape[1] + int(options.get("max_new_tokens") or 0)
            options["past_key_values"] = prefix_cache(lm, None, room=room)
        return model.generate(ids_BL, attention_mask=mask_BL, **options)
    if own:
        raise InputError(f"generate(kv=...) cannot be combined with {own[0]!r}; leave it out")
    rows, held = len(ids_BL), kv.tokens
    prefix_BT = kv.token_ids.to(ids_BL.device).expand(rows, -1)
    room = ids_BL.shape[1] + int(options.get("max_new_tokens") or 0)
    found = model.generate(
        torch.cat((prefix_BT, ids_BL), dim=1),
        attention_mask=torch.cat((torch.ones_like(prefix_BT), mask_BL), dim=1),
        past_key_values=prefix_cache(lm, kv, room=room, rows=rows),
        **options,
    )
    if isinstance(found, Tensor):
        return found[:, held:]
    found.sequences = found.sequences[:, held:]
    return found


def _ids_and_mask(inputs: Any, options: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    given = dict(inputs) if isinstance(inputs, Mapping) else {"input_ids": inputs}
    ids = given.pop("input_ids", None)
    mask = given.pop("attention_mask", options.pop("attention_mask", None))
    given.pop("token_type_ids", None)
    if given:
        raise InputError(f"generate() got inputs it does not know: {', '.join(given)}")
    if not isinstance(ids, Tensor) or ids.ndim not in (1, 2) or ids.is_floating_point():
        raise InputError(
            f"generate() got {type(ids).__name__}; expected a tensor of token ids (rows, tokens) "
            "or the mapping a tokenizer returns with return_tensors='pt'"
        )
    if ids.numel() == 0:
        raise InputError("generate() got no token ids; expected at least one")
    return torch.atleast_2d(ids), mask
