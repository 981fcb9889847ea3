"""Inputs of a call: a single one or a sequence, texts and others, documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gritlm.lm.media.files import MediaRules, kind_of_bytes
from gritlm.lm.media.inputs import (
    CONTENT_TYPES,
    ImagePart,
    InputText,
    Part,
    Parts,
    SoundPart,
    as_parts,
)
from gritlm.lm.tokens import as_texts, document_texts


def as_inputs(value: Any, rules: MediaRules, *, reads_media: bool) -> list[str | Parts]:
    """Return an input, or a sequence of inputs, as a list of texts and of parts.

    Args:
        value: an input in any form of :func:`as_parts`, or any iterable of inputs.
        rules: limits and permissions.
        reads_media: whether the model reads images or sound; one that does not takes no dicts.

    Raises:
        InputError: for an item of another form, with its index.
    """
    single = is_single(value)
    if isinstance(value, str) or not (single or hasattr(value, "__iter__")):
        return [*as_texts(value)]
    many = [value] if single else list(value)
    if all(isinstance(each, str) for each in many) or not (
        reads_media or any(map(names_media, many))
    ):
        return [*as_texts(value if single else many)]
    found: list[str | Parts] = []
    for index, each in enumerate(many):
        parts = as_parts(each, f"input {index} of {len(many)}", rules)
        text = joined_text(parts)
        found.append(parts if text is None else text)
    return found


def is_single(value: Any) -> bool:
    """Return whether a value is a single input, not a sequence of inputs.

    An array of numbers is one; an array of texts is a sequence.
    """
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "buif"
    single = isinstance(value, str | bytes | bytearray | Mapping | Path | Part)
    return single or hasattr(value, "getbands") or hasattr(value, "detach")


def names_media(value: Any) -> bool:
    """Return whether an input has an image, a sound or a video in it, as far as its form shows."""
    if isinstance(value, list | tuple):
        return any(map(names_media, value))
    if isinstance(value, Mapping):
        keys = {"image", "audio", "video", "array"}
        return bool(keys & set(value)) or value.get("type") in CONTENT_TYPES
    if isinstance(value, bytes | bytearray):
        return kind_of_bytes(bytes(value[:64])) is not None
    return isinstance(value, Path | ImagePart | SoundPart) or hasattr(value, "getbands")


def document_inputs(corpus: Any) -> Any:
    """Return documents as inputs, with title and text joined by a space.

    Args:
        corpus: texts, inputs with images and sound, or dicts with ``text`` and, optionally,
            ``title``, as :func:`gritlm.lm.tokens.document_texts` takes them.

    Raises:
        InputError: for a document without a text, an image or a sound, with its index.
    """
    if is_single(corpus):
        return _document(corpus) if names_media(corpus) else document_texts(corpus)
    if not hasattr(corpus, "__iter__"):
        return document_texts(corpus)
    many = list(corpus)
    if not any(map(names_media, many)):
        return document_texts(many)
    return [_document(each) if names_media(each) else document_texts(each) for each in many]


def _document(document: Any) -> Any:
    """Return a document with images or sound, its title at the beginning of its text."""
    if not isinstance(document, Mapping) or not isinstance(document.get("title"), str):
        return document
    text = f"{document['title']} {document.get('text') or ''}".strip()
    rest = {key: value for key, value in document.items() if key not in ("title", "text")}
    return {"text": text, **rest}


def joined_text(parts: Sequence[Part]) -> str | None:
    """Return the text of parts that are texts only; None if an image or a sound is among them."""
    texts = [part.text for part in parts if isinstance(part, InputText)]
    return "".join(texts) if len(texts) == len(parts) else None
