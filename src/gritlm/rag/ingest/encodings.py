"""Decoding of files; an encoding that cannot be determined is refused, not guessed."""

from __future__ import annotations

import codecs
import re
from unicodedata import name

from charset_normalizer import CharsetMatch, from_bytes

from gritlm.errors import InputError
from gritlm.rag.ingest.alphabets import encoding_of

MARKS = (  # longer marks first: the mark of UTF-32 starts with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
RECOGNISED = 0.1  # least coherence of letter frequencies with a known language; noise has 0
SAMPLE = 2**16  # bytes from which an undeclared encoding is detected

# Browsers decode these names as a superset, and authors of pages rely on it.
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
# Codecs of Python that are no text encodings; some take quadratic time.
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
    """Return the decoded text, with line ends as ``\\n``.

    Args:
        data: bytes of the file.
        declared: encoding declared in the file, used if the bytes are not UTF-8.

    Raises:
        InputError: if the bytes are not text, or their encoding cannot be determined.
    """
    text = _decode(data, declared)
    if "\0" in text:
        raise InputError("binary: it holds zero bytes; expected text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def declared_encoding(page: bytes) -> str | None:
    """Return the encoding declared by a page's XML declaration or ``meta`` element, or None."""
    found = DECLARED.search(page[:DECLARED_IN])
    return None if found is None else (found[1] or found[2]).decode()


def is_wide(start: bytes) -> bool:
    """Return whether a file starts with a byte order mark of UTF-16 or UTF-32."""
    return any(start.startswith(mark) for mark, encoding in MARKS if encoding != "utf-8-sig")


def _decode(data: bytes, declared: str | None) -> str:
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return _decode_strictly(data, encoding)
    escaped = _decode_iso2022(data)
    if escaped is not None:
        return escaped
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"byte {error.start + 1} (0x{data[error.start]:02x}) is not UTF-8"
    else:
        return _decode_utf16(data) if "\0" in text else text
    if b"\0" in data:
        return _decode_utf16(data)
    named = _codec_name(declared)
    if named is not None:
        return _decode_declared(data, named)
    if _is_damaged_utf8(data):
        raise InputError(f"damaged: {problem}, the rest is; repair it or convert it to UTF-8")
    return _detect_and_decode(data, problem)


def _decode_iso2022(data: bytes) -> str | None:
    """Return text decoded from an encoding with escape sequences (ISO 2022), or None."""
    if b"\x1b$" not in data:
        return None
    for mark, encoding in ESCAPED:
        if mark in data:
            try:
                return data.decode(encoding)
            except UnicodeError:
                return None
    return None


def _decode_utf16(data: bytes) -> str:
    """Return text decoded from UTF-16 without a mark, detected by the zero bytes of ASCII."""
    start = data[:4096]
    half = max(1, len(start) // 2)
    even = start[::2].count(0) / half
    odd = start[1::2].count(0) / half
    for encoding, zeros, letters in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if zeros > 0.6 and letters < 0.1:
            return _decode_strictly(data, encoding)
    raise InputError("binary: it holds zero bytes; expected text")


def _decode_declared(data: bytes, named: str) -> str:
    try:
        return data.decode(WIDER.get(named, named))
    except UnicodeError:
        return _decode_strictly(data, named)


def _decode_strictly(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeError as error:
        raise InputError(f"damaged: it says {encoding}, but {error}") from None


def _codec_name(declared: str | None) -> str | None:
    """Return Python's name of a declared encoding; None if unknown or not a text encoding."""
    if declared is None:
        return None
    try:
        found = codecs.lookup(ALIASES.get(declared.lower(), declared))
    except (LookupError, ValueError):
        return None
    is_text = getattr(found, "_is_text_encoding", True)
    return found.name if is_text and found.name not in NO_ENCODINGS else None


def _is_damaged_utf8(data: bytes) -> bool:
    """Return whether the bytes are UTF-8 except for a few, which fits no other encoding."""
    text = data.decode("utf-8", errors="replace")
    broken = text.count("\ufffd")
    beyond_ascii = len(text) - len(text.encode("ascii", errors="ignore"))
    return beyond_ascii - broken > broken


def _detect_and_decode(data: bytes, problem: str) -> str:
    """Return text decoded strictly with the encoding detected from a sample."""
    best = _detect_encoding(_sample(data))
    if best is not None:
        try:
            return data.decode(best)
        except UnicodeError:
            problem = f"{problem}, its beginning looks like {best}, the rest does not"
    raise InputError(f"{problem}, and no other encoding fits well; convert it to UTF-8")


def _sample(data: bytes) -> bytes:
    """Return a sample around the first bytes outside ASCII, cut at white space."""
    if len(data) <= SAMPLE:
        return data
    first = re.search(rb"[\x80-\xff]", data)
    start = 0 if first is None else max(0, first.start() - SAMPLE // 8)
    part = data[start : start + SAMPLE]
    if start:
        part = part[_word_border(part[: SAMPLE // 16], last=False) :]
    if start + SAMPLE < len(data):
        part = part[: _word_border(part, last=True)]
    return part


def _word_border(part: bytes, *, last: bool) -> int:
    """Return the offset of the last white space, or the offset behind the first."""
    if last:
        offset = max(part.rfind(b"\n"), part.rfind(b" "))
        return offset if offset > 0 else len(part)
    found = re.search(rb"[ \n]", part)
    return 0 if found is None else found.end()


def _detect_encoding(sample: bytes) -> str | None:
    """Return the most likely encoding, or None; ties go to cp1252, the most common one."""
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
    """Return whether all letters outside ASCII are Latin."""
    letters = {letter for letter in text[:SAMPLE] if letter.isalpha() and not letter.isascii()}
    return all(name(letter, "").startswith("LATIN") for letter in letters)


def _is_western(match: CharsetMatch, best: CharsetMatch) -> bool:
    equal = (match.chaos, match.coherence) == (best.chaos, best.coherence)
    return equal and "cp1252" in match.could_be_from_charset
