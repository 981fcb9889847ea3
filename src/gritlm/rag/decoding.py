"""Bytes of a file to text. What cannot be told is refused: a guess would be found by nobody."""

from __future__ import annotations

import codecs

from charset_normalizer import CharsetMatch, from_bytes

from gritlm.errors import InputError

MARKS = (  # longer ones first: that of UTF-16 begins that of UTF-32
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
RECOGNISED = 0.1  # of the letters as often as in a known language; noise comes to 0


def decoded(data: bytes, *, declared: str | None = None) -> str:
    """The text, with line ends as ``\\n``.

    Args:
        declared: encoding that the file itself names, read if it is not UTF-8.

    Raises:
        InputError: for bytes that are no text, or whose encoding cannot be told.
    """
    text = _decoded(data, declared)
    if "\0" in text:
        raise InputError("binary: it holds zero bytes; expected text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decoded(data: bytes, declared: str | None) -> str:
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return _strictly(data, encoding)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"byte {error.start + 1} (0x{data[error.start]:02x}) is not UTF-8"
    if b"\0" in data:
        raise InputError("binary: it holds zero bytes; expected text")
    if declared is not None and _known(declared):
        return _strictly(data, declared)
    if _damaged(data):
        raise InputError(f"damaged: {problem}, the rest is; repair it or convert it to UTF-8")
    best = _best(data)
    if best is None or best.coherence < RECOGNISED:
        raise InputError(f"{problem}, and no other encoding fits well; convert it to UTF-8")
    return str(best)


def _strictly(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeError as error:
        raise InputError(f"damaged: it says {encoding}, but {error}") from None


def _known(encoding: str) -> bool:
    try:
        b"".decode(encoding)
    except LookupError:
        return False
    return True


def _damaged(data: bytes) -> bool:
    """UTF-8 but for a few bytes: other encodings hardly ever make whole sequences of it."""
    text = data.decode("utf-8", errors="replace")
    broken = text.count("\ufffd")
    return sum(not letter.isascii() for letter in text) - broken > broken


def _best(data: bytes) -> CharsetMatch | None:
    """The likeliest encoding; cp1252 where it is as likely, for most such files are from there."""
    found = from_bytes(data)
    best = found.best()
    for match in found:
        equal = best and (match.chaos, match.coherence) == (best.chaos, best.coherence)
        if equal and "cp1252" in match.could_be_from_charset:
            return match
    return best
