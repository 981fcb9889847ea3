"""One file to title and text: plain text, Markdown, HTML and PDF."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO

from pypdf import PdfReader
from pypdf.errors import DependencyError

from gritlm.errors import InputError
from gritlm.lm.quiet import only_errors
from gritlm.rag import markdown_text, pdf_text
from gritlm.rag.decoding import declared_encoding, decoded
from gritlm.rag.html_markdown import markdown_of
from gritlm.rag.html_tokens import is_xml, tokens
from gritlm.rag.html_tree import page_title, tree
from gritlm.rag.metadata import normalise_metadata
from gritlm.rag.passages import Value
from gritlm.rag.pdf_content import ContentSizes

LEAST_TEXT = 2**20  # characters, or decompressed bytes, that any file may hold
GROWTH = 50  # of them for each byte of a file, above that
UNTITLED = {"untitled", "(anonymous)", "anonymous", "unspecified"}  # what programs fill in


@dataclass(frozen=True)
class Content:
    """The text of a file, its title, and the metadata that it names itself."""

    text: str
    title: str = ""
    markdown: bool = False
    metadata: Mapping[str, Value] = field(default_factory=dict)


def read(ending: str, data: bytes) -> Content:
    """Return the content of a file.

    Args:
        ending: of the file's name, one of ``READERS``.

    Raises:
        InputError: for a file that cannot be read, has no text, or far more text than bytes.
    """
    if not data.strip():
        raise InputError("empty")
    content = READERS[ending](data)
    if not content.text.strip():
        raise InputError("empty: no text in it")
    _check_growth(len(content.text), len(data), "characters of text")
    return content


def plain(data: bytes) -> Content:
    """Return a text as it is written."""
    return Content(decoded(data))


def markdown(data: bytes) -> Content:
    """Return Markdown without its front matter and comments.

    The title is that of the front matter, else the first heading of the first level.
    """
    found, text = markdown_text.split_front_matter(decoded(data))
    text = markdown_text.without_comments(text)
    title = found.get("title")
    if isinstance(title, str | int | float) and not isinstance(title, bool):
        del found["title"]
    else:
        title = ""
    title = " ".join(str(title).split()) or markdown_text.title_of(text)
    return Content(text.strip("\n"), title, markdown=True, metadata=normalise_metadata(found))


def html(data: bytes) -> Content:
    """Return what a reader of the page sees, as Markdown, without addresses of links."""
    text = decoded(data, declared=declared_encoding(data))
    root = tree(tokens(text), xml=is_xml(text))
    return Content(markdown_of(root), page_title(root), markdown=True)


def pdf(data: bytes) -> Content:
    """Return the text of all pages.

    Raises:
        InputError: for a PDF that is broken, needs a password, or has no text.
    """
    with only_errors("pypdf"):
        try:
            reader = PdfReader(BytesIO(data))
            locked = bool(reader.is_encrypted and not reader.decrypt(""))
            pages = [] if locked else _pages(reader, len(data))
            title = "" if locked or reader.metadata is None else str(reader.metadata.title or "")
        except DependencyError:
            raise InputError("encrypted; save it without encryption") from None
        except InputError:
            raise
        # A broken file makes the parser fail in any way there is.
        except Exception as error:
            what = type(error).__name__
            raise InputError(f"no PDF that can be read ({what}: {error})") from error
    if locked:
        raise InputError("encrypted: it asks for a password; save it without one")
    text = pdf_text.text_of(pages)
    if not text.strip():
        raise InputError("a PDF without text, as scanners make it; recognise its text first (OCR)")
    title = " ".join(_whole(title).split())
    return Content(text, "" if title.lower() in UNTITLED else title)


def _pages(reader: PdfReader, size: int) -> list[str]:
    pages: list[str] = []
    sizes = ContentSizes()
    content = length = 0
    for page in reader.pages:
        content += sizes.of(page)
        _check_growth(content, size, "bytes of page content")
        pages.append(_whole(page.extract_text()))
        length += len(pages[-1])
        _check_growth(length, size, "characters of text")
    return pages


def _whole(text: str) -> str:
    """Return the text without zeros and halves of characters."""
    return text.replace("\0", "").encode("utf-8", errors="replace").decode()


def _check_growth(length: int, size: int, unit: str) -> None:
    most = max(LEAST_TEXT, GROWTH * size)
    if length > most:
        raise InputError(
            f"its {size:,} bytes hold more than {most:,} {unit}; split the file, or save it as "
            "plain text"
        )


READERS: dict[str, Callable[[bytes], Content]] = {
    ".txt": plain,
    ".text": plain,
    ".md": markdown,
    ".markdown": markdown,
    ".html": html,
    ".htm": html,
    ".xhtml": html,
    ".pdf": pdf,
}
