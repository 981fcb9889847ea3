"""Files of images and sound: limits, permissions, kinds and bytes, and their decoded content.

Shapes: H rows, W columns, N samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gritlm.errors import InputError, one_line
from gritlm.lm.media.web import LONGEST, fetch

Kind = Literal["image", "sound"]

_IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
_SOUNDS = (b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xf1", b"FORM")
_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
# Endings of the names of files.
ENDINGS: dict[Kind, frozenset[str]] = {
    "image": frozenset(
        [
            ".png",
            ".jpg",
            ".jpeg",
            ".gif",
            ".bmp",
            ".tif",
            ".tiff",
            ".webp",
            ".heic",
            ".heif",
            ".avif",
        ]
    ),
    "sound": frozenset([".wav", ".mp3", ".flac", ".ogg", ".opus", ".aac", ".m4a", ".aiff"]),
}


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """Pixels (H, W, 3) of an upright RGB image, uint8."""

    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class DecodedSound:
    """Mono sound.

    Attributes:
        samples: samples (N,) in float32, within [-1, 1].
        rate: samples per second.
    """

    samples: NDArray[np.float32]
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True)
class MediaRules:
    """Limits on images and sound, and where they may come from.

    Attributes:
        most_bytes: largest file in bytes.
        most_pixels: most pixels of an image.
        longest_sound: longest sound in seconds.
        most_parts: most images and sounds of an input.
        files: whether an input may name files of this machine.
        web: whether an input may name ``http`` and ``https`` addresses, which are then fetched;
            addresses of private networks are refused.
        decoder: decoder of an image or a sound within the limits, in another process perhaps; None
            for the one of :func:`gritlm.lm.media.media_prompts.decode`.
        spend: called with the tokens of each image and sound (``MediaTokens``); it raises an error
            where they are too many. None for no limit on all of them together.
    """

    most_bytes: int = 64 << 20
    most_pixels: int = 64_000_000
    longest_sound: float = 3600.0
    most_parts: int = 256
    files: bool = True
    web: bool = False
    decoder: Callable[[Any, MediaRules], DecodedImage | DecodedSound] | None = None
    spend: Callable[[Any], None] | None = None


LOCAL = MediaRules()
UNTRUSTED = MediaRules(most_bytes=16 << 20, longest_sound=600.0, most_parts=32, files=False)


@dataclass(frozen=True)
class WebAddress:
    """Address of an image or a sound on the web, which is not fetched yet."""

    url: str


def kind_of_bytes(head: bytes) -> Kind | None:
    """Return the kind of a file from its first bytes; None if they are not known."""
    if head.startswith(b"RIFF"):
        return {b"WAVE": "sound", b"WEBP": "image"}.get(head[8:12])  # type: ignore[return-value]
    if head.startswith(_IMAGES) or is_heif(head) or head[4:12] == b"ftypavif":
        return "image"
    if head.startswith(_SOUNDS) or head[4:11] == b"ftypM4A":
        return "sound"
    return None


def is_heif(head: bytes) -> bool:
    """Return whether the first bytes are those of a HEIC or HEIF image."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF


def kind_of_path(path: Path) -> Kind | None:
    """Return the kind of a file from the ending of its name; None if it is not known."""
    ending = path.suffix.lower()
    return next((kind for kind, endings in ENDINGS.items() if ending in endings), None)


def file_bytes(
    source: Path | WebAddress | bytes, name: str, rules: MediaRules, *, seconds: float = LONGEST
) -> bytes:
    """Return the bytes of a file.

    Args:
        source: a path, an address, or the bytes themselves.
        name: name of the image or sound in messages.
        rules: limits.
        seconds: most seconds of fetching an address.

    Raises:
        InputError: for a file that cannot be read, or is too large.
    """
    if isinstance(source, bytes):
        content = source
    elif isinstance(source, WebAddress):
        content = fetch(source.url, name=name, most_bytes=rules.most_bytes, seconds=seconds)
    else:
        content = _read(source, name, rules)
    if not content:
        raise InputError(f"{name} is an empty file; save it again")
    if len(content) > rules.most_bytes:
        raise InputError(f"{name} has more than {rules.most_bytes:,} bytes; use a smaller file")
    return content


def _read(path: Path, name: str, rules: MediaRules) -> bytes:
    if not path.is_file():  # a folder, or a pipe that would block
        raise InputError(f"{name}: there is no file {one_line(path, limit=200)}")
    try:
        with path.open("rb") as file:
            return file.read(rules.most_bytes + 1)
    except OSError as error:
        raise InputError(
            f"{name}: {one_line(path, limit=200)} cannot be read ({error.strerror})"
        ) from None
