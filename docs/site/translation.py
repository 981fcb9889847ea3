"""Chinese pages of the site: their anchors, and their links to other pages.

A page ``X.zh.md`` has the headings of ``X.md``, translated, in the same order. In the repository
its links lead to Chinese headings (``rag.zh.md#检索``), as GitHub names them. On the site a heading
has one anchor in both languages, because pages without translation link to translated ones.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import NamedTuple

SUFFIX = ".zh.md"
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")
_WIDE = "[\u3000-\u9fff\uff00-\uffef“”‘’—…]"
_BROKEN = re.compile(rf"(?<={_WIDE})\n *(?={_WIDE})")
_SWITCH = re.compile(
    r"^(?:English \| \[中文\]\([^)]*\)|\[English\]\([^)]*\) \| 中文)\n+", re.MULTILINE
)


class Heading(NamedTuple):
    """Heading of a page."""

    level: int
    title: str
    anchor: str


def english_of(path: str) -> str:
    """Return the path of the English page of a Chinese one."""
    return path.removesuffix(SUFFIX) + ".md"


def headings(text: str) -> list[Heading]:
    """Return the headings of a page with their anchors, which are those of GitHub."""
    found: list[Heading] = []
    seen: dict[str, int] = {}
    for marks, title in _HEADING.findall(FENCED.sub("", text)):
        anchor = re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        seen[anchor] = seen.get(anchor, -1) + 1
        found.append(Heading(len(marks), title, anchor + (f"-{seen[anchor]}" * bool(seen[anchor]))))
    return found


def without_switch(text: str) -> str:
    """Return a page without its line of languages; the site has a menu of them."""
    return _SWITCH.sub("", text, count=1)


def joined(text: str) -> str:
    """Return a text without the line ends inside Chinese sentences, which would become spaces."""
    return _BROKEN.sub("", text)


def with_english_anchors(text: str, source: str, root: Path) -> str:
    """Return a Chinese page with the anchors of the English one.

    Args:
        text: Markdown of the page.
        source: path of the page in the repository.
        root: folder of the repository.

    Raises:
        ValueError: if the page does not have the headings of the English one, or links to a
            heading that a page does not have.
    """
    anchors = english_anchors(source, root)
    parts = FENCED.split(text)
    fences = [*FENCED.findall(text), ""]
    names = iter(anchors.values())

    def heading(found: re.Match[str]) -> str:
        return f"{found[0]} {{#{next(names)}}}"

    def link(found: re.Match[str]) -> str:
        target, place = found.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target or source))
        path = path if target else source
        if not path.endswith(SUFFIX):
            return found[0]
        if not place:
            return f"]({english_of(target)})"
        there = english_anchors(path, root)
        if place not in there:
            raise ValueError(f"{source} links to {target}#{place}; expected one of {list(there)}")
        return f"]({english_of(target) if target else ''}#{there[place]})"

    written = (joined(_LINK.sub(link, _HEADING.sub(heading, part))) for part in parts)
    return "".join(part + fence for part, fence in zip(written, fences, strict=True))


def english_anchors(source: str, root: Path) -> dict[str, str]:
    """Return the English anchor of each anchor of a Chinese page, in order.

    Args:
        source: path of the Chinese page in the repository.
        root: folder of the repository.

    Raises:
        ValueError: if the pages have different headings.
    """
    chinese, english = (
        headings((root / path).read_text(encoding="utf-8")) for path in (source, english_of(source))
    )
    levels = [[each.level for each in page] for page in (chinese, english)]
    if levels[0] != levels[1]:
        raise ValueError(
            f"{source} has headings of the levels {levels[0]}, {english_of(source)} {levels[1]}; "
            "give both pages the same headings"
        )
    return {zh.anchor: en.anchor for zh, en in zip(chinese, english, strict=True)}
