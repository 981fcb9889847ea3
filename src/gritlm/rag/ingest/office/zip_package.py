"""Packages of Office and EPUB files: zip files whose sizes are checked before a parser reads them.

A few kilobytes of zip can hold gigabytes of XML, and a few lines of XML can define entities that
expand to gigabytes. Both are refused here.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from zipfile import BadZipFile, ZipFile, ZipInfo

from gritlm.errors import InputError, first_line
from gritlm.rag.ingest.file_content import check_growth

MOST_FILES = 20_000  # in a package
MOST_XML = 200_000_000  # bytes; a tree of it takes several times as much memory
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # container of encrypted and of older Office files
_NOT_XML = {  # endings of parts that no parser takes for XML
    *("bin", "bmp", "emf", "fntdata", "gif", "jpeg", "jpg", "mp3", "mp4", "odttf", "png", "tif"),
    *("tiff", "ttf", "wmf"),
}
_DECLARATIONS = (b"<!DOCTYPE", b"<!ENTITY")


@contextmanager
def package(data: bytes, kind: str) -> Iterator[ZipFile]:
    """Open the package of a file, and turn each failure of a parser into one error.

    Args:
        data: bytes of the file.
        kind: kind of the file, for messages: ``Word document``.

    Raises:
        InputError: for a file that is broken, encrypted, or far larger when it is decompressed.
    """
    if data.startswith(_OLE):
        raise InputError(
            f"encrypted, or no {kind} but one of an older version; save it without password in the "
            "current format"
        )
    try:
        with ZipFile(BytesIO(data)) as opened:
            _check_sizes(opened.infolist(), len(data))
            yield opened
    except (InputError, ImportError):
        raise
    except MemoryError:
        raise InputError("reading it takes too much memory; split it") from None
    # A broken file makes the parsers fail in any way there is.
    except Exception as error:
        what = type(error).__name__
        raise InputError(f"no {kind} that can be read ({what}: {first_line(error)})") from error


def check_xml(opened: ZipFile) -> None:
    """Raise an error for XML with declarations, which Office does not write.

    Raises:
        InputError: for a document type or an entity in a part of the package.
    """
    for info in opened.infolist():
        if not _may_be_xml(info):
            continue
        content = opened.read(info).replace(b"\0", b"")  # also in UTF-16
        if any(declaration in content for declaration in _DECLARATIONS):
            raise InputError(
                f"its part {info.filename[:80]!r} declares a document type or entities, which "
                "are not read; save it again with an Office program"
            )


def part(opened: ZipFile, name: str) -> bytes | None:
    """Return the bytes of a part of a package; None if it is missing or broken."""
    try:
        return opened.read(name)
    except (KeyError, BadZipFile, zlib.error, EOFError, NotImplementedError):
        return None


def _check_sizes(files: list[ZipInfo], size: int) -> None:
    """Raise an error for a package that is encrypted, or too large when it is decompressed.

    ``zipfile`` never returns more bytes of a file than its declared size.
    """
    if len(files) > MOST_FILES:
        raise InputError(f"it holds {len(files):,} files; at most {MOST_FILES:,} are read")
    if any(info.flag_bits & 1 for info in files):
        raise InputError("encrypted: it asks for a password; save it without one")
    check_growth(sum(info.file_size for info in files), size, "decompressed bytes")
    xml = sum(info.file_size for info in files if _may_be_xml(info))
    if xml > MOST_XML:
        raise InputError(f"it holds {xml:,} bytes of XML; at most {MOST_XML:,} are read: split it")


def _may_be_xml(info: ZipInfo) -> bool:
    return info.filename.lower().rpartition(".")[2] not in _NOT_XML
