"""Bytes of a file to text. An encoding that cannot be determined is refused, never guessed."""

from __future__ import annotations

import codecs
import re
from unicodedata import name

from charset_normalizer import CharsetMatch, from_bytes

from gritlm.errors import InputError
from gritlm.rag.ingest.alphabets import encoding_of

MARKS = (  # longer ones first: that of UTF-16 begins that of UTF-32
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
RECOGNISED = 0.1  # of the letters as often as in a known language; noise scores 0
SAMPLE = 2**16  # bytes that an undeclared encoding is found by

# Browsers read these names as a superset, and so do their pages' authors.
WIDER = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "big5": "big5hkscs",
}
ALIASES = {
    "ks_c_5601-1987": "euc_kr",
    "ksc5601": "euc_kr",
    "windows-949": "cp949",
    "windows-31j": "cp932",
    "x-sjis": "shift_jis",
    "x-euc-jp": "euc_jp",
    "x-gbk": "gbk",
    "x-mac-roman": "mac_roman",
}
# Python calls these encodings, too; some take time by the square of the length.
NO_ENCODINGS = {
    "idna",
    "punycode",
    "raw-unicode-escape",
    "raw_unicode_escape",
    "undefined",
    "unicode-escape",
    "unicode_escape",
    "utf-7",
}
ESCAPED = ((b"\x1b$)C", "iso2022_kr"), (b"\x1b$B", "iso2022_jp_2"), (b"\x1b$@", "iso2022_jp_2"))
DECLARED = re.compile(
    rb"""<\?xml[^>]{0,200}?encoding\s{0,9}=\s{0,9}["']([\w.:-]{1,40})"""
    rb"""|<meta[^>]{0,1000}?charset\s{0,9}=\s{0,9}["']?\s{0,9}([\w.:-]{1,40})""",
    re.IGNORECASE,
)
DECLARED_IN = 2**14  # bytes at the start of a page


def decoded(data: bytes, *, declared: str | None = None) -> str:
    """Return the text, with line ends as ``\\n``.

    Args:
        declared: encoding that the file itself names, read if it is not UTF-8.

    Raises:
        InputError: for bytes that are no text, or whose encoding cannot be determined.
    """
    text = _decoded(data, declared)
    if "\0" in text:
        raise InputError("binary: it holds zero bytes; expected text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def declared_encoding(page: bytes) -> str | None:
    """Return the encoding that the XML declaration or a ``meta`` element of a page names."""
    found = DECLARED.search(page[:DECLARED_IN])
    return None if found is None else (found[1] or found[2]).decode()


def is_wide(start: bytes) -> bool:
    """Tell whether the first bytes of a file announce UTF-16 or UTF-32."""
    return any(start.startswith(mark) for mark, encoding in MARKS if encoding != "utf-8-sig")


def _decoded(data: bytes, declared: str | None) -> str:
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return _strictly(data, encoding)
    escaped = _escaped(data)
    if escaped is not None:
        return escaped
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"byte {error.start + 1} (0x{data[error.start]:02x}) is not UTF-8"
    else:
        return _wide(data) if "\0" in text else text
    if b"\0" in data:
        return _wide(data)
    named = _codec(declared)
    if named is not None:
        return _as_declared(data, named)
    if _damaged(data):
        raise InputError(f"damaged: {problem}, the rest is; repair it or convert it to UTF-8")
    return _recognised(data, problem)


def _escaped(data: bytes) -> str | None:
    """Return the text of an encoding that changes its alphabet by escape sequences."""
    if b"\x1b$" not in data:
        return None
    for mark, encoding in ESCAPED:
        if mark in data:
            try:
                return data.decode(encoding)
            except UnicodeError:
                return None
    return None


def _wide(data: bytes) -> str:
    """Return the text of UTF-16 without a byte order mark, known by the zeros of its ASCII."""
    start = data[:4096]
    half = max(1, len(start) // 2)
    even = start[::2].count(0) / half
    odd = start[1::2].count(0) / half
    for encoding, zeros, letters in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if zeros > 0.6 and letters < 0.1:
            return _strictly(data, encoding)
    raise InputError("binary: it holds zero bytes; expected text")


def _as_declared(data: bytes, named: str) -> str:
    try:
        return data.decode(WIDER.get(named, named))
    except UnicodeError:
        return _strictly(data, named)


def _strictly(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeError as error:
        raise InputError(f"damaged: it says {encoding}, but {error}") from None


def _codec(declared: str | None) -> str | None:
    """Return the name of a declared encoding, or None for one that is unknown or no encoding."""
    if declared is None:
        return None
    try:
        found = codecs.lookup(ALIASES.get(declared.lower(), declared))
    except (LookupError, ValueError):
        return None
    is_text = getattr(found, "_is_text_encoding", True)
    return found.name if is_text and found.name not in NO_ENCODINGS else None


def _damaged(data: bytes) -> bool:
    """Tell whether it is UTF-8 but for a few bytes: no other encoding looks like that."""
    text = data.decode("utf-8", errors="replace")
    broken = text.count("\ufffd")
    beyond_ascii = len(text) - len(text.encode("ascii", errors="ignore"))
    return beyond_ascii - broken > broken


def _recognised(data: bytes, problem: str) -> str:
    """Return the text in the likeliest encoding, found by a sample and then read strictly."""
    best = _best(_sample(data))
    if best is not None:
        try:
            return data.decode(best)
        except UnicodeError:
            problem = f"{problem}, its beginning looks like {best}, the rest does not"
    raise InputError(f"{problem}, and no other encoding fits well; convert it to UTF-8")


def _sample(data: bytes) -> bytes:
    """Return a part around the first bytes outside ASCII, cut at white space."""
    if len(data) <= SAMPLE:
        return data
    first = re.search(rb"[\x80-\xff]", data)
    start = 0 if first is None else max(0, first.start() - SAMPLE // 8)
    part = data[start : start + SAMPLE]
    if start:
        part = part[_edge(part[: SAMPLE // 16], last=False) :]
    if start + SAMPLE < len(data):
        part = part[: _edge(part, last=True)]
    return part


def _edge(part: bytes, *, last: bool) -> int:
    """Return the place of its last white space, or behind its first one."""
    if last:
        place = max(part.rfind(b"\n"), part.rfind(b" "))
        return place if place > 0 else len(part)
    found = re.search(rb"[ \n]", part)
    return 0 if found is None else found.end()


def _best(sample: bytes) -> str | None:
    """Return the likeliest encoding; cp1252 where it is as likely, for most such files use it."""
    found = from_bytes(sample)
    best = found.best()
    if best is None or best.coherence < RECOGNISED:
        return None
    if _is_latin(str(best)):
        encoding = encoding_of(sample)
        if encoding is not None:
            return encoding
    return next((match.encoding for match in found if _is_western(match, best)), best.encoding)


def _is_latin(text: str) -> bool:
    """Tell whether its letters outside ASCII are Latin ones."""
    letters = {letter for letter in text[:SAMPLE] if letter.isalpha() and not letter.isascii()}
    return all(name(letter, "").startswith("LATIN") for letter in letters)


def _is_western(match: CharsetMatch, best: CharsetMatch) -> bool:
    equal = (match.chaos, match.coherence) == (best.chaos, best.coherence)
    return equal and "cp1252" in match.could_be_from_charset
