"""Validation of texts, documents, numbers and vectors passed by users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gritlm.errors import InputError


def validated(sentences: Any) -> list[str]:
    """Return a text, or a sequence of texts, as a list.

    Args:
        sentences: a text, or any iterable of texts.

    Raises:
        InputError: for an item that is not a string, with its index and value.
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
        require_text(text, f"text {index} of {len(many)}")
    return many


def require_text(text: str, name: str) -> None:
    """Refuse lone surrogates, which come from wrongly decoded files.

    Args:
        text: the text to check.
        name: name of the text, for the message.

    Raises:
        InputError: for a lone surrogate, with its position.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} has a lone surrogate at character {error.start}; decode its source with the "
            "right encoding, or with errors='replace'"
        ) from None


def documents(corpus: Any) -> str | list[str]:
    """Return documents as texts, with title and text joined by a space.

    Args:
        corpus: texts, or dicts with ``text`` and, optionally, ``title``. A single dict gives a
            single text, unless its values are lists, as in BEIR.

    Raises:
        InputError: for a document without a text, with its index.
    """
    if isinstance(corpus, str):
        return corpus
    if isinstance(corpus, Mapping):
        if isinstance(corpus.get("text"), list):
            return documents(_rows(corpus))
        return _document(corpus, 0)
    if not hasattr(corpus, "__iter__"):
        return validated(corpus)
    return [_document(d, i) if isinstance(d, Mapping) else d for i, d in enumerate(corpus)]


def _rows(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Return a corpus of columns, ``{"title": [...], "text": [...]}`` as in BEIR, as rows."""
    titles = columns.get("title") or [None] * len(columns["text"])
    if len(titles) != len(columns["text"]):
        raise InputError(f"corpus has {len(titles)} titles and {len(columns['text'])} texts")
    return [{"title": title, "text": t} for title, t in zip(titles, columns["text"], strict=True)]


def _document(document: Mapping[str, Any], index: int) -> str:
    if not isinstance(document.get("text"), str):
        keys = ", ".join(map(str, document)) or "no key"
        raise InputError(f"document {index} has no 'text' that is a text; it has {keys}")
    if not isinstance(document.get("title"), str | None):
        raise InputError(f"document {index} has the title {document['title']!r}; expected a text")
    return f"{document.get('title') or ''} {document['text']}".strip()


def at_least_one(value: Any, *, name: str) -> int:
    """Return ``value`` if it is an integer of at least 1.

    Args:
        value: the value of the argument.
        name: name of the argument, for the message.

    Raises:
        InputError: for another value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}={value!r}; expected a whole number >= 1")
    return value


def as_rows(vectors: Any) -> Tensor:
    """Return vectors (N, D) or a vector (D,) as a tensor (N, D) in float32 on the CPU."""
    rows = vectors if isinstance(vectors, Tensor) else torch.as_tensor(np.asarray(vectors))
    return torch.atleast_2d(rows.detach().to("cpu", torch.float32))
