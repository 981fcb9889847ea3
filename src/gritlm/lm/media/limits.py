"""Limits on images and sound, and permissions of their sources."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    most_bytes: int = 64 << 20
    most_pixels: int = 64_000_000
    longest_sound: float = 3600.0
    most_parts: int = 256
    files: bool = True
    web: bool = False


LOCAL = MediaRules()
UNTRUSTED = MediaRules(most_bytes=16 << 20, longest_sound=600.0, most_parts=32, files=False)
