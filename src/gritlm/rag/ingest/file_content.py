"""Content of a file, and the bound on its size relative to the file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gritlm.errors import InputError
from gritlm.rag.types import MediaPiece, MediaPlace, Value

LEAST_TEXT = 2**20  # characters, or decompressed bytes, that any file may hold
GROWTH = 50  # of them for each byte of a file, above that
UNTITLED = {  # what programs fill in
    "untitled",
    "(anonymous)",
    "anonymous",
    "unspecified",
    "powerpoint presentation",
    "powerpoint-präsentation",
    "présentation powerpoint",
}


@dataclass(frozen=True)
class FileContent:
    """Text, title and metadata read from a file, and its images and sounds.

    Attributes:
        text: the text.
        title: title of the file; empty without one.
        markdown: whether headings of the text are borders of passages.
        metadata: names and values to filter by.
        media: pages, images and sounds.
        pages: offset in the text at which each page begins; empty for a text without pages.
    """

    text: str
    title: str = ""
    markdown: bool = False
    metadata: Mapping[str, Value] = field(default_factory=dict)
    media: tuple[MediaPiece, ...] = ()
    pages: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the content as values of JSON."""
        media = [
            {"data": base64.b64encode(piece.data).decode(), "place": asdict(piece.place)}
            for piece in self.media
        ]
        return {**vars(self), "metadata": dict(self.metadata), "media": media}

    @staticmethod
    def from_json(content: dict[str, Any]) -> FileContent:
        """Return the content of values that :meth:`as_json` returned."""
        media = tuple(
            MediaPiece(base64.b64decode(each["data"]), MediaPlace(**each["place"]))
            for each in content["media"]
        )
        return FileContent(**{**content, "media": media, "pages": tuple(content["pages"])})


def own_title(title: str) -> str:
    """Return a title on one line; empty for one that a program filled in."""
    line = " ".join(whole(title).split())
    return "" if line.lower() in UNTITLED else line


def whole(text: str) -> str:
    """Return text without zero characters and unpaired surrogates."""
    return text.replace("\0", "").encode("utf-8", errors="replace").decode()


def check_growth(length: int, size: int, unit: str) -> None:
    """Raise an error if a file has far more content than bytes.

    Args:
        length: size of the content.
        size: bytes of the file.
        unit: unit of ``length``, for the message.

    Raises:
        InputError: for content of more than ``GROWTH`` units per byte, and ``LEAST_TEXT``.
    """
    most = max(LEAST_TEXT, GROWTH * size)
    if length > most:
        raise InputError(
            f"its {size:,} bytes hold more than {most:,} {unit}; split the file, or save it as "
            "plain text"
        )
