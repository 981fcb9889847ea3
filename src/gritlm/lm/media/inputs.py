"""Parts of an input: text, images and sound, as users pass them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TextPart:
    """Text of an input."""

    text: str


@dataclass(frozen=True, eq=False)
class ImagePart:
    """Image of an input, before it is decoded.

    Attributes:
        source: a path, bytes of a file, a PIL image, or pixels as a numpy array.
        name: name of the image in messages.
    """

    source: Any
    name: str


@dataclass(frozen=True, eq=False)
class SoundPart:
    """Sound of an input, before it is decoded.

    Attributes:
        source: a path, bytes of a file, or samples (N,) or (C, N) as a numpy array.
        name: name of the sound in messages.
        rate: samples per second of an array; None for a file.
    """

    source: Any
    name: str
    rate: int | None = None


Part = TextPart | ImagePart | SoundPart
