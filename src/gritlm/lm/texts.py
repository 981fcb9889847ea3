"""What users hand in as texts and vectors, checked and brought into one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gritlm.errors import InputError


def validated(sentences: Any) -> list[str]:
    """One text or any sequence of texts -> a list.

    Raises:
        InputError: naming the item that is no text.
    """
    if isinstance(sentences, str):
        return [sentences]
    if isinstance(sentences, Mapping | bytes) or not hasattr(sentences, "__iter__"):
        raise InputError(
            f"sentences is {type(sentences).__name__}; expected a text or a list of texts "
            "(encode_corpus takes dicts with title and text)"
        )
    many = list(sentences)
    for index, text in enumerate(many):
        if not isinstance(text, str):
            raise InputError(
                f"text {index} of {len(many)} is {text!r} ({type(text).__name__}); expected str"
            )
    return many


def documents(corpus: Any) -> str | list[str]:
    """Texts, or dicts with ``title`` and ``text`` -> texts; one dict is one text.

    Raises:
        InputError: naming the document without a text.
    """
    if isinstance(corpus, str):
        return corpus
    if isinstance(corpus, Mapping):
        return _document(corpus, 0)
    if not isinstance(corpus, Sequence):
        return validated(corpus)
    return [_document(d, i) if isinstance(d, Mapping) else d for i, d in enumerate(corpus)]


def _document(document: Mapping[str, Any], index: int) -> str:
    if not isinstance(document.get("text"), str):
        raise InputError(
            f"document {index} has no 'text'; it has {', '.join(document) or 'no key'}"
        )
    return f"{document.get('title') or ''} {document['text']}".strip()


def at_least_one(value: Any, *, name: str) -> int:
    """``value`` if it is a whole number >= 1.

    Raises:
        InputError: otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}={value!r}; expected a whole number >= 1")
    return value


def as_rows(vectors: Any) -> Tensor:
    """Vectors of any kind -> (N, D) in float32 on the CPU."""
    rows = vectors if isinstance(vectors, Tensor) else torch.as_tensor(vectors)
    return torch.atleast_2d(rows.detach().to("cpu", torch.float32))
