"""Who made a key/value block, and the name under which it is kept.

A block belongs to the exact ids that were read, the weights that read them, and the way of reading.
Where it will stand in a prompt is not a part of its name: it is moved there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from blake3 import blake3
from torch import nn

from gritlm.lm.gritlm import GritLM
from gritlm.lm.kv.rope import RopeTable
from gritlm.prompts import gritlm_instruction

VERSION = 1  # of templates and of what a block holds; another one makes other names


@dataclass(frozen=True)
class ModelIdentity:
    """A model as far as its blocks and vectors depend on it.

    Attributes:
        model: fingerprint of weights, number format and adapter.
        digest: of all else too: tokenizer, templates, prefix, table of rotary positions, how
            texts are read and pooled, the projection's weights.
        name: for messages.
        rope: table to move keys with; None for a model whose keys cannot be moved.
        kv_bytes_per_token: in the model's own number format.
        dimension: of its vectors.
    """

    model: str
    digest: str
    name: str
    rope: RopeTable | None
    kv_bytes_per_token: int
    dimension: int

    def key(self, ids: Sequence[int], *, causal: bool, storage: str) -> bytes:
        """The name (32 bytes) of what reading these ids leaves behind.

        Args:
            storage: number format in which it is kept.
        """
        kind = "causal" if causal else "bidirectional"
        about = json.dumps([VERSION, self.model, self.digest, kind, storage]).encode()
        return blake3(about + np.asarray(ids, dtype="<i8").tobytes()).digest()


def maker_of(model: GritLM) -> ModelIdentity:
    """The maker of the blocks and vectors that this model leaves behind."""
    rope = model.lm.rope()
    settings = model.settings
    about = [
        VERSION,
        sorted(model.tokenizer.get_vocab().items()),
        str(model.tokenizer("a")["input_ids"]),
        gritlm_instruction(),
        settings.template,
        settings.embed_eos,
        settings.pooling_method,
        settings.normalized,
        settings.query_instruction,
        None if rope is None else [rope.inv_freq_LF.tolist(), rope.interleaved],
        # Only where there is something to tell: stores that were made before keep their names.
        *(["reads causally"] if settings.embeds_causally else []),
        *([] if model.projection is None else [_weights(model.projection)]),
    ]
    adapter = f" with {model.adapter}" if model.adapter else ""
    return ModelIdentity(
        model=model.lm.fingerprint,
        digest=blake3(json.dumps(about).encode()).hexdigest()[:32],
        name=f"{model.source}{adapter}, {str(model.dtype).removeprefix('torch.')}",
        rope=rope,
        kv_bytes_per_token=model.kv_bytes_per_token(),
        dimension=model.embedding_dimension,
    )


def _weights(layer: nn.Linear) -> str:
    """Hash of a layer's parameters."""
    found = blake3()
    for name, tensor in layer.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().float().cpu().numpy().tobytes())
    return found.hexdigest()
