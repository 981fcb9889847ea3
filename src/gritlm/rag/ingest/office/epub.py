"""Reader of EPUB books: their chapters in reading order, as Markdown."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterator
from urllib.parse import unquote
from zipfile import ZipFile

from gritlm.errors import InputError
from gritlm.rag.ingest.encodings import declared_encoding, decoded
from gritlm.rag.ingest.file_content import FileContent, check_growth, own_title
from gritlm.rag.ingest.html.html_markdown import markdown_of
from gritlm.rag.ingest.html.html_tokens import is_xml, tokens
from gritlm.rag.ingest.html.html_tree import Element, tree
from gritlm.rag.ingest.office.zip_package import package, part

_PAGES = {"application/xhtml+xml", "text/html"}


def epub(data: bytes) -> FileContent:
    """Return the chapters of a book in reading order, without its table of contents.

    Raises:
        InputError: if the book is broken, encrypted, or too large when it is decompressed.
    """
    with package(data, "EPUB book") as opened:
        container = _elements(_tree(_required(opened, "META-INF/container.xml")))
        paths = [each.attributes.get("full-path", "") for each in container["rootfile"]]
        if not paths:
            raise InputError("no EPUB book that can be read: it names no list of chapters")
        found = _elements(_tree(_required(opened, paths[0])))
        chapters = list(_chapters(found, posixpath.dirname(paths[0])))
        _check_encryption(opened, chapters)
        texts: list[str] = []
        for name in chapters:
            texts.append(markdown_of(_tree(_required(opened, name))))
            check_growth(sum(map(len, texts)), len(data), "characters of text")
        titles = [own_title(_text(each)) for each in found["title"]]
        text = "\n\n".join(filter(None, texts))
        return FileContent(text, next(iter(titles), ""), markdown=True)


def _chapters(found: defaultdict[str, list[Element]], folder: str) -> Iterator[str]:
    """Yield the names of the chapters' files in reading order.

    Args:
        found: elements of the book's list of files, by name.
        folder: folder of that list, which its addresses begin at.
    """
    items = {item.attributes.get("id"): item.attributes for item in found["item"]}
    for reference in found["itemref"]:
        item = items.get(reference.attributes.get("idref"), {})
        is_contents = "nav" in item.get("properties", "").split()
        if item.get("media-type") in _PAGES and not is_contents:
            address = unquote(item.get("href", "").partition("#")[0])
            yield posixpath.normpath(posixpath.join(folder, address))


def _check_encryption(opened: ZipFile, chapters: list[str]) -> None:
    """Raise an error for a book with digital rights management; fonts may be encrypted.

    Raises:
        InputError: for an encrypted chapter.
    """
    about = part(opened, "META-INF/encryption.xml")
    if about is None:
        return
    for reference in _elements(_tree(about))["cipherreference"]:
        if unquote(reference.attributes.get("uri", "")).lstrip("/") in chapters:
            raise InputError("encrypted by its seller (DRM); it cannot be read")


def _required(opened: ZipFile, name: str) -> bytes:
    """Return a file of the book.

    Raises:
        InputError: for a file that is missing or broken.
    """
    content = part(opened, name)
    if content is None:
        raise InputError(f"no EPUB book that can be read: its file {name[:80]!r} is missing")
    return content


def _tree(content: bytes) -> Element:
    """Return the root of a page or of XML; entities that it declares are not expanded."""
    text = decoded(content, declared=declared_encoding(content))
    return tree(tokens(text), xml=is_xml(text))


def _elements(root: Element) -> defaultdict[str, list[Element]]:
    """Return all elements below a root by name, without their namespaces."""
    found: defaultdict[str, list[Element]] = defaultdict(list)
    todo = [root]
    while todo:
        element = todo.pop()
        found[element.name.rpartition(":")[2]].append(element)
        todo += [child for child in reversed(element.children) if isinstance(child, Element)]
    return found


def _text(element: Element) -> str:
    return "".join(child for child in element.children if isinstance(child, str))
