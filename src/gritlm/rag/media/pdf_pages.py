"""Images of the pages of a PDF file, rendered by pypdfium2.

This runs in the process of :mod:`gritlm.rag.ingest.file_reader`, whose memory and time are limited.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from gritlm.errors import InputError, one_line
from gritlm.rag.types import MediaPiece, MediaPlace

MOST_PAGES = 500
_DENSITY = 144 / 72  # pixels per point
LONGEST = 1536  # pixels of the longer side; larger pages are rendered smaller


def render(data: bytes, *, most_bytes: int) -> list[MediaPiece]:
    """Return an image of each page of a PDF file.

    Args:
        data: bytes of the file.
        most_bytes: most bytes of all images.

    Raises:
        InputError: for a file that is broken, encrypted or empty, or has too many pages.
    """
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise InputError("encrypted: it asks for a password; save it without one") from None
        raise InputError(f"no PDF that can be read ({one_line(error)})") from None
    try:
        document.init_forms()
        count = len(document)
        if not count:
            raise InputError("a PDF without pages")
        if count > MOST_PAGES:
            raise InputError(
                f"it has {count:,} pages, at most {MOST_PAGES} are read as images; split it"
            )
        return _pages(document, count, most_bytes)
    except pypdfium2.PdfiumError as error:
        raise InputError(f"no PDF that can be read ({one_line(error)})") from None
    finally:
        document.close()


def _pages(document: Any, count: int, most_bytes: int) -> list[MediaPiece]:
    pieces = []
    size = 0
    for number in range(count):
        image = _png(document[number], number + 1)
        size += len(image)
        if size > most_bytes:
            raise InputError(
                f"the images of its first {number + 1} pages have more than the {most_bytes:,} "
                "bytes that are left to the request; split the file, or send fewer files"
            )
        pieces.append(MediaPiece(image, MediaPlace("image", page=number + 1)))
    return pieces


def _png(page: Any, number: int) -> bytes:
    """Return a page as a PNG image."""
    width, height = page.get_size()
    if not (0 < width < float("inf") and 0 < height < float("inf")):
        raise InputError(f"page {number} has the size {width:g} x {height:g}; repair the file")
    scale = min(_DENSITY, LONGEST / max(width, height))
    if min(width, height) * scale < 1:
        raise InputError(
            f"page {number} of {width:g} x {height:g} points is too narrow for an image; cut it"
        )
    with BytesIO() as file:
        page.render(scale=scale).to_pil().convert("RGB").save(file, "PNG")
        page.close()
        return file.getvalue()
