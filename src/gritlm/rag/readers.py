"""One file to title and text: plain text, Markdown, HTML and PDF."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from bs4 import BeautifulSoup
from bs4.dammit import EncodingDetector
from markdownify import MarkdownConverter
from pypdf import PdfReader
from pypdf.errors import DependencyError

from gritlm.errors import InputError
from gritlm.lm.quiet import only_errors
from gritlm.rag.decoding import decoded

HEADING = re.compile(r"^# +([^ \n].*)$", re.MULTILINE)  # takes time by length: no two ways to match
UNSEEN = ("script", "style", "noscript", "template", "head")
AS_WRITTEN: dict[str, Any] = {
    "heading_style": "ATX",
    "strip": ["a", "img"],
    "escape_asterisks": False,
    "escape_underscores": False,
    "escape_misc": False,
}
BORDER = "\n\n"  # between the pages of a PDF


@dataclass(frozen=True)
class Content:
    """What a file says."""

    text: str
    title: str = ""
    markdown: bool = False


def plain(data: bytes) -> Content:
    return Content(decoded(data))


def markdown(data: bytes) -> Content:
    """Its title is the first heading of the first level."""
    text = decoded(data)
    heading = HEADING.search(text)
    return Content(text, heading[1].rstrip(" #").strip() if heading else "", markdown=True)


def html(data: bytes) -> Content:
    """The page as Markdown, without scripts, styles, pictures and addresses of links."""
    text = decoded(data, declared=EncodingDetector.find_declared_encoding(data, is_html=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # guesses about what the author meant
        page = BeautifulSoup(text, "html.parser")
    title = page.title.get_text(" ", strip=True) if page.title else ""
    for tag in page(UNSEEN):
        tag.decompose()
    try:
        body = MarkdownConverter(**AS_WRITTEN).convert_soup(page)
    except RecursionError:
        raise InputError("its elements are nested too deeply") from None
    return Content(body.strip(), " ".join(title.split()), markdown=True)


def pdf(data: bytes) -> Content:
    """The text of all pages.

    Raises:
        InputError: for a PDF that is broken, needs a password, or has no text.
    """
    with only_errors("pypdf"):
        try:
            reader = PdfReader(BytesIO(data))
            locked = bool(reader.is_encrypted and not reader.decrypt(""))
            pages = [] if locked else [page.extract_text() for page in reader.pages]
            title = "" if locked or reader.metadata is None else str(reader.metadata.title or "")
        except DependencyError:
            raise InputError("encrypted; save it without encryption") from None
        # A broken file makes the parser fail in any way there is.
        except Exception as error:
            what = type(error).__name__
            raise InputError(f"no PDF that can be read ({what}: {error})") from error
    if locked:
        raise InputError("encrypted: it asks for a password; save it without one")
    text = BORDER.join(page.strip() for page in pages).replace("\0", "")
    text = text.encode("utf-8", errors="replace").decode()
    if not text.strip():
        raise InputError("a PDF without text, as scanners make it; recognise its text first (OCR)")
    return Content(text, title.replace("\0", "").strip())


READERS: dict[str, Callable[[bytes], Content]] = {
    ".txt": plain,
    ".text": plain,
    ".md": markdown,
    ".markdown": markdown,
    ".html": html,
    ".htm": html,
    ".pdf": pdf,
}
