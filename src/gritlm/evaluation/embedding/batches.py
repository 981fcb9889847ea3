"""Inputs in the batches of mteb: texts, and images and sounds with or without a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from gritlm.errors import InputError

BLANK = "."  # stands for a blank text, which has no token to pool
MEDIA = ("image", "audio")  # columns of a batch, in the order of the parts of an input


def has_media(batch: Mapping[str, Any]) -> bool:
    """Return whether a batch has images or sounds."""
    return any(column in batch for column in MEDIA)


def inputs_of(batch: Mapping[str, Any]) -> list[Any]:
    """Return the inputs of a batch in the forms of :meth:`GritLM.encode`.

    Args:
        batch: lists of equal length in the columns ``text``, ``image`` and ``audio``; others are
            ignored.

    Raises:
        InputError: for a batch without these columns, or with videos.
    """
    if "video" in batch:
        raise InputError("the task has videos, which are not read; choose one of images or sound")
    if not has_media(batch):
        if "text" not in batch:
            raise InputError(
                f"a batch of the task has the columns {[*batch]}; expected text, image or audio"
            )
        return [text if text.strip() else BLANK for text in batch["text"]]
    columns = [column for column in (*MEDIA, "text") if column in batch]
    rows = zip(*(batch[column] for column in columns), strict=True)
    return [_input(dict(zip(columns, row, strict=True))) for row in rows]


def groups(batches: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[Any]]:
    """Yield the inputs of batches: all texts together, inputs with images or sounds in groups.

    Decoded images need much memory, so only those of a group are held.

    Args:
        batches: batches of mteb.
        size: number of inputs in a group.
    """
    held: list[Any] = []
    for batch in batches:
        held += inputs_of(batch)
        while has_media(batch) and len(held) >= size:
            yield held[:size]
            del held[:size]
    if held:
        yield held


def _input(row: Mapping[str, Any]) -> Any:
    """Return an input of several parts; missing ones and blank texts are left out."""
    found: dict[str, Any] = {}
    for column, value in row.items():
        if value is None or (column == "text" and not value.strip()):
            continue
        found[column] = _sound(value) if column == "audio" else value
    return found or BLANK


def _sound(value: Any) -> Any:
    """Return a sound that the library ``datasets`` has decoded, in the form of an array."""
    if isinstance(value, bytes | str):
        return value
    return {
        "array": np.asarray(value["array"], dtype=np.float32),
        "sampling_rate": int(value["sampling_rate"]),
    }
