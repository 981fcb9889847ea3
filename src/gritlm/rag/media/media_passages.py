"""Passages of a document's images and sounds, and their vectors and KV blocks.

Shapes: D of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3

from gritlm.lm.gritlm import GritLM
from gritlm.lm.kv.block import KVBlock
from gritlm.prompts import gritlm_instruction
from gritlm.rag.index.passage_rows import passage_id
from gritlm.rag.kvstore.shared.shared_blocks import KnownBlocks
from gritlm.rag.media.media_library import MediaLibrary
from gritlm.rag.reuse.blocks import measured_block
from gritlm.rag.types import Document, MediaPiece, Passage


@dataclass(frozen=True)
class ReadPiece:
    """An image or a sound that the model takes.

    Attributes:
        piece: its bytes and its place.
        ids: token ids of its passage.
    """

    piece: MediaPiece
    ids: Sequence[int]


def media_passages(document: Document, title: str) -> list[Passage]:
    """Return the passages of a document's images and sounds, in order.

    Args:
        document: the document.
        title: its title, as it is embedded.
    """
    return [_passage(document, title, number, piece) for number, piece in enumerate(document.media)]


def piece_hashes(document: Document) -> list[list[Any]]:
    """Return hash and place of each image and sound of a document."""
    return [
        [blake3(piece.data).hexdigest(), sorted(piece.place.metadata().items())]
        for piece in document.media
    ]


def encode_media(
    model: GritLM,
    library: MediaLibrary,
    passage: Passage,
    kinds: Sequence[str],
    key: Callable[..., bytes],
    known: KnownBlocks | None = None,
) -> tuple[np.ndarray[Any, Any], list[tuple[bytes, KVBlock]]]:
    """Return the vector (1, D) of an image or a sound, and its KV block of each kind with its key.

    Args:
        model: model that embeds it.
        library: library with its file.
        passage: its passage.
        kinds: kinds of KV blocks.
        key: function of token ids and ``causal`` that names a block.
        known: blocks of other workspaces; None for none.
    """
    prompt = library.prompt_of(passage)
    vector_1D, (block,) = model.encoder.vectors_and_blocks([prompt])
    keyed = []
    for kind in kinds:
        causal = kind == "causal"
        name = key(prompt.ids, causal=causal)
        read = block
        if causal != model.encoder.makes_causal_blocks:
            if known is not None and known.obtain(name, len(prompt.ids)):
                continue
            read = measured_block(
                model.lm, prompt.ids, causal=causal, known=known, media=prompt.media
            )
        keyed.append((name, read))
    return vector_1D.numpy(), keyed


def vectors_of(
    model: GritLM, library: MediaLibrary, passages: Sequence[Passage]
) -> np.ndarray[Any, Any]:
    """Return the vectors (N, D) of passages of any kind.

    Args:
        model: model that embeds them.
        library: library with the files of images and sounds.
        passages: N passages.

    Raises:
        InputError: for an image or a sound whose file is missing.
    """
    inputs = [
        passage.embedded if passage.media is None else library.parts_of(passage)
        for passage in passages
    ]
    vectors_ND = model.encode(
        inputs,
        instruction=gritlm_instruction(),
        max_length=model.lm.max_positions or 1 << 20,
        show_progress_bar=False,
    )
    return np.asarray(vectors_ND)


def _passage(document: Document, title: str, number: int, piece: MediaPiece) -> Passage:
    label = piece.place.label
    text = f"{document.id}, {label}" if label else document.id
    content = f"{title} {text}\n{blake3(piece.data).hexdigest()}"
    return Passage(
        id=passage_id(document.id, content, number),
        document_id=document.id,
        title=title,
        text=text,
        number=number,
        start=0,
        end=len(text),
        metadata={**document.metadata, **piece.place.metadata()},
    )
