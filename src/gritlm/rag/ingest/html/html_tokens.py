"""Tokenizer for HTML: tags and texts, in time linear in the length of the page.

``html.parser`` of the standard library searches the rest of the page for each broken tag, so a page
of 180 KB can take minutes. Here each failed search is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import unescape

# Elements whose content is plain text up to their end tag.
RAW = {"script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "plaintext"}
SMALL = {
    letter: letter + 32 for letter in range(ord("A"), ord("Z") + 1)
}  # unlike str.lower, keeps the length
NAME = re.compile(r"[a-zA-Z][^\s/>]{0,200}")
BLANK = re.compile(r"[\s/]*")
ATTRIBUTE = re.compile(r"""([^\s/>=][^\s/>=]*)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s"'>][^\s>]*))?""")


@dataclass(frozen=True)
class Start:
    """Start tag; ``closed`` if it ends with ``/>``."""

    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    closed: bool = False


@dataclass(frozen=True)
class End:
    """End tag."""

    name: str


Token = Start | End | str


class _Page:
    """Text of a page, searched without case, with memory of missing marks."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._lower = text.translate(SMALL)
        self._missing: set[str] = set()

    def find(self, mark: str, start: int) -> int:
        """Return the offset of a lower-case mark from ``start`` on, or -1."""
        if mark in self._missing:
            return -1
        offset = self._lower.find(mark, start)
        if offset < 0:
            self._missing.add(mark)
        return offset

    def behind(self, mark: str, start: int) -> int:
        """Return the offset behind a mark, or the end of the page if it is missing."""
        offset = self.find(mark, start)
        return len(self.text) if offset < 0 else offset + len(mark)


def is_xml(text: str) -> bool:
    """Return whether a page begins with an XML declaration, as XHTML does."""
    return text[:100].lstrip("\ufeff \t\n").startswith("<?xml")


def tokens(text: str) -> Iterator[Token]:
    """Yield tags and texts, without comments, declarations and processing instructions."""
    page = _Page(text)
    xml = is_xml(text)
    offset = 0
    while offset < len(text):
        tag = page.find("<", offset)
        if tag < 0:
            yield _unescape(text[offset:])
            return
        if tag > offset:
            yield _unescape(text[offset:tag])
        offset, found = _markup(page, tag)
        yield from found
        raw = found[0] if found else None
        if isinstance(raw, Start) and raw.name in RAW and not (xml and raw.closed):
            offset, content = _raw(page, raw.name, offset)
            yield content


def _markup(page: _Page, tag: int) -> tuple[int, list[Token]]:
    """Return the offset behind the markup at ``<``, and its tokens."""
    text = page.text
    if text.startswith("<!--", tag):
        return _comment(page, tag), []
    if text.startswith("<![CDATA[", tag):
        end = page.find("]]>", tag)
        end = len(text) if end < 0 else end
        return end + 3, [text[tag + 9 : end]]
    if text.startswith("<?", tag):
        end = page.find("?>", tag)
        return (page.behind(">", tag) if end < 0 else end + 2), []
    if text.startswith("<!", tag):
        return page.behind(">", tag), []
    if text.startswith("</", tag):
        name = NAME.match(text, tag + 2)
        end = page.behind(">", tag)
        return end, [End(name[0].lower())] if name else []
    name = NAME.match(text, tag + 1)
    if name is None:
        return tag + 1, ["<"]
    return _start(text, tag, name)


def _comment(page: _Page, tag: int) -> int:
    if page.text.startswith((">", "->"), tag + 4):  # an empty comment, as in browsers
        return page.behind(">", tag)
    end = page.find("-->", tag + 4)
    return page.behind(">", tag) if end < 0 else end + 3


def _start(text: str, tag: int, name: re.Match[str]) -> tuple[int, list[Token]]:
    attributes: dict[str, str] = {}
    offset = BLANK.match(text, name.end()).end()  # type: ignore[union-attr]
    while offset < len(text) and text[offset] != ">":
        found = ATTRIBUTE.match(text, offset)
        if found is None:  # a stray equals sign or quote
            offset += 1
        else:
            value = found[2] or ""
            quoted = value[:1] in ('"', "'")
            attributes.setdefault(found[1].lower(), value[1:-1] if quoted else value)
            offset = found.end()
        offset = BLANK.match(text, offset).end()  # type: ignore[union-attr]
    if offset >= len(text):  # the page ends inside the tag, which is kept as text
        return len(text), [_unescape(text[tag:])]
    named = {key: _unescape(value) for key, value in attributes.items()}
    return offset + 1, [Start(name[0].lower(), named, closed=text[offset - 1] == "/")]


def _raw(page: _Page, name: str, start: int) -> tuple[int, str]:
    """Return the offset behind the content of a raw text element, and the content.

    Without an end tag, a title has no content; other elements reach to the end of the page.
    """
    end = page.find(f"</{name}", start)
    if end >= 0:
        content = page.text[start:end]
        return end, _unescape(content) if name in ("title", "textarea") else content
    return (start, "") if name == "title" else (len(page.text), page.text[start:])


def _unescape(text: str) -> str:
    try:
        return unescape(text)
    except ValueError:  # the number of a character has thousands of digits
        return text
