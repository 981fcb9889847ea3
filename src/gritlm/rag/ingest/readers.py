"""Readers of text, Markdown, HTML, PDF, Office and EPUB files, by the ending of the name."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from pypdf import PdfReader
from pypdf.errors import DependencyError

from gritlm.errors import InputError, MissingExtraError
from gritlm.lm.hub.quiet import only_errors
from gritlm.rag.ingest import markdown_text, pdf_text
from gritlm.rag.ingest.encodings import declared_encoding, decoded
from gritlm.rag.ingest.file_content import FileContent, check_growth, own_title, whole
from gritlm.rag.ingest.html.html_markdown import markdown_of
from gritlm.rag.ingest.html.html_tokens import is_xml, tokens
from gritlm.rag.ingest.html.html_tree import page_title, tree
from gritlm.rag.ingest.metadata import normalise_metadata
from gritlm.rag.ingest.office import epub, office_files
from gritlm.rag.ingest.pdf_content import ContentSizes


def read(ending: str, data: bytes) -> FileContent:
    """Return the text, title and metadata of a file.

    Args:
        ending: ending of the file's name, a key of ``READERS``.
        data: bytes of the file.

    Raises:
        InputError: if the file cannot be read, has no text, has far more text than bytes, or needs
            a library that is not installed.
    """
    if not data.strip():
        raise InputError("empty")
    try:
        content = READERS[ending](data)
    except MissingExtraError as error:
        raise InputError(str(error)) from None
    if not content.text.strip():
        raise InputError("empty: no text in it")
    check_growth(len(content.text), len(data), "characters of text")
    return content


def plain(data: bytes) -> FileContent:
    """Return plain text unchanged."""
    return FileContent(decoded(data))


def markdown(data: bytes) -> FileContent:
    """Return Markdown without its front matter and comments.

    The title is taken from the front matter, or else from the first heading of level 1.
    """
    found, text = markdown_text.split_front_matter(decoded(data))
    text = markdown_text.without_comments(text)
    title = found.get("title")
    if isinstance(title, str | int | float) and not isinstance(title, bool):
        del found["title"]
    else:
        title = ""
    title = " ".join(str(title).split()) or markdown_text.title_of(text)
    return FileContent(text.strip("\n"), title, markdown=True, metadata=normalise_metadata(found))


def html(data: bytes) -> FileContent:
    """Return the visible text of a page as Markdown, without link addresses."""
    text = decoded(data, declared=declared_encoding(data))
    root = tree(tokens(text), xml=is_xml(text))
    return FileContent(markdown_of(root), page_title(root), markdown=True)


def pdf(data: bytes) -> FileContent:
    """Return the text of all pages of a PDF, and its title.

    Raises:
        InputError: if the PDF is broken, encrypted, or has no text.
    """
    content = pdf_if_any(data)
    if not content.text.strip():
        raise InputError("a PDF without text, as scanners make it; recognise its text first (OCR)")
    return content


def pdf_if_any(data: bytes) -> FileContent:
    """Return the text of all pages of a PDF, which may be empty, and its title.

    Raises:
        InputError: if the PDF is broken or encrypted.
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
    text, starts = pdf_text.text_of(pages)
    return FileContent(text, own_title(title), pages=starts)


def _pages(reader: PdfReader, size: int) -> list[str]:
    pages: list[str] = []
    sizes = ContentSizes()
    content = length = 0
    for page in reader.pages:
        content += sizes.of(page)
        check_growth(content, size, "bytes of page content")
        pages.append(whole(page.extract_text()))
        length += len(pages[-1])
        check_growth(length, size, "characters of text")
    return pages


READERS: dict[str, Callable[[bytes], FileContent]] = {
    ".txt": plain,
    ".text": plain,
    ".md": markdown,
    ".markdown": markdown,
    ".html": html,
    ".htm": html,
    ".xhtml": html,
    ".pdf": pdf,
    ".docx": office_files.docx,
    ".pptx": office_files.pptx,
    ".xlsx": office_files.xlsx,
    ".epub": epub.epub,
}
