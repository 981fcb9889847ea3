"""Bytes of images and sounds in files and on the web."""

from __future__ import annotations

from pathlib import Path

from gritlm.errors import InputError, one_line
from gritlm.lm.media.inputs import WebAddress
from gritlm.lm.media.limits import MediaRules
from gritlm.lm.media.web import fetch


def file_bytes(source: Path | WebAddress | bytes, name: str, rules: MediaRules) -> bytes:
    """Return the bytes of a file.

    Args:
        source: a path, an address, or the bytes themselves.
        name: name of the image or sound in messages.
        rules: limits.

    Raises:
        InputError: for a file that cannot be read, or is too large.
    """
    if isinstance(source, bytes):
        content = source
    elif isinstance(source, WebAddress):
        content = fetch(source.url, name=name, most_bytes=rules.most_bytes)
    else:
        content = _read(source, name, rules)
    if not content:
        raise InputError(f"{name} is an empty file")
    if len(content) > rules.most_bytes:
        raise InputError(f"{name} has more than {rules.most_bytes:,} bytes, which are not read")
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
