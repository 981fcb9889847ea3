"""Kinds of files, by their first bytes or their names."""

from __future__ import annotations

from pathlib import Path

from gritlm.lm.media.senses import Kind

_IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
_SOUNDS = (b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xf1", b"FORM")
_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_IMAGE_NAMES = frozenset(
    {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".heic", ".heif", ".avif"}
)
_SOUND_NAMES = frozenset({".wav", ".mp3", ".flac", ".ogg", ".opus", ".aac", ".m4a", ".aiff"})


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
    if ending in _IMAGE_NAMES:
        return "image"
    return "sound" if ending in _SOUND_NAMES else None
