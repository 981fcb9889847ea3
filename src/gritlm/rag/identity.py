"""Identity of the model that made a KV block, and the key of the block in the store.

A key covers the exact token ids, the weights, and the attention of the pass. The position in a
prompt is no part of it: blocks are moved to their position.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from blake3 import blake3
from torch import nn

from gritlm.lm.fingerprint import fingerprint
from gritlm.lm.gritlm import GritLM
from gritlm.lm.kv.rope import RopeTable
from gritlm.prompts import gritlm_instruction

VERSION = 1  # of templates and block contents; another version gives other keys


@dataclass(frozen=True)
class ModelIdentity:
    """The properties of a model on which its blocks and vectors depend.

    Attributes:
        model: fingerprint of weights, number format and adapter.
        digest: hash of everything else: tokenizer, templates, prefix, table of rotary positions,
            attention and pooling of embeddings, weights of the projection, towers of images and
            sound.
        name: name of the model for messages.
        rope: table of rotary positions for moving keys; None if keys cannot be moved.
        kv_bytes_per_token: bytes of a token in the model's own number format.
        dimension: dimension of its embeddings.
    """

    model: str
    digest: str
    name: str
    rope: RopeTable | None
    kv_bytes_per_token: int
    dimension: int


def maker_of(model: GritLM) -> ModelIdentity:
    """Return the identity of a model, the maker of its blocks and vectors."""
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
        # Added only where they apply: the keys of older stores stay valid.
        *(["reads causally"] if settings.embeds_causally else []),
        *([] if model.projection is None else [_weights(model.projection)]),
        *([] if model.shares_embedding_pass else ["embeds with", model.encoder.lm.fingerprint]),
        *(
            []
            if model.senses is None
            else ["reads", *model.reads, fingerprint(model.senses.module)]
        ),
    ]
    return ModelIdentity(
        model=model.lm.fingerprint,
        digest=blake3(json.dumps(about).encode()).hexdigest()[:32],
        name=f"{_name(model)}, {str(model.dtype).removeprefix('torch.')}",
        rope=rope,
        kv_bytes_per_token=model.kv_bytes_per_token(),
        dimension=model.embedding_dimension,
    )


def _name(model: GritLM) -> str:
    chats = f" with {model.adapter}" if model.adapter else ""
    embeds = f" embedding with {model.embed_adapter}" if model.embed_adapter else ""
    return f"{model.source}{chats}{embeds}"


def _weights(layer: nn.Linear) -> str:
    """Return the hash of a layer's parameters."""
    digest = blake3()
    for name, tensor in layer.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
