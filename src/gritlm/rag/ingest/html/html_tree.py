"""Tags and texts to a tree of elements, no deeper than a bound."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gritlm.rag.ingest.html.html_tokens import Start, Token

DEEPEST = 100  # elements around one; those within are read as if their tags were not there
VOID = {
    "area",
    "base",
    "br",
    "col",
    "embed",
    "hr",
    "img",
    "input",
    "link",
    "meta",
    "param",
    "source",
    "track",
    "wbr",
}
UNSEEN = {
    "script",
    "style",
    "noscript",
    "template",
    "head",
    "title",
    "svg",
    "iframe",
    "noembed",
    "noframes",
    "video",
    "audio",
    "canvas",
    "datalist",
    "rp",
    "annotation",
    "annotation-xml",
}
UNDISPLAYED = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
BLOCKS = {
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "center",
    "dd",
    "details",
    "dialog",
    "dir",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hgroup",
    "hr",
    "html",
    "legend",
    "li",
    "main",
    "menu",
    "nav",
    "ol",
    "p",
    "pre",
    "search",
    "section",
    "summary",
    "table",
    "ul",
    "xmp",
}
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
CELLS = {"td", "th", "caption"}
ROWS = {"tr", "thead", "tbody", "tfoot"}
AROUND_PARAGRAPHS = BLOCKS - {"p"} | CELLS | {"button"}
# Which open elements a start tag ends, and which ones it looks no further than.
ENDS: dict[str, tuple[set[str], set[str]]] = {
    "li": ({"li"}, {"ul", "ol", "menu", "dir"}),
    "dt": ({"dt", "dd"}, {"dl"}),
    "dd": ({"dt", "dd"}, {"dl"}),
    "td": ({"td", "th"}, {"tr", "table"}),
    "th": ({"td", "th"}, {"tr", "table"}),
    "tr": ({"tr", "caption"}, {"table"}),
    "thead": (ROWS | {"caption"}, {"table"}),
    "tbody": (ROWS | {"caption"}, {"table"}),
    "tfoot": (ROWS | {"caption"}, {"table"}),
    "option": ({"option"}, {"select", "datalist"}),
    "optgroup": ({"option", "optgroup"}, {"select"}),
    "rt": ({"rt", "rp"}, {"ruby"}),
    "rp": ({"rt", "rp"}, {"ruby"}),
    "body": ({"head"}, {"html"}),
}
OF_HEAD = {
    "base",
    "head",
    "html",
    "link",
    "meta",
    "noscript",
    "script",
    "style",
    "template",
    "title",
}


@dataclass
class Element:
    """An element with its attributes and its content, in order.

    Attributes:
        holds_blocks: whether a block is somewhere within it.
        holds_tables: whether a table is somewhere within it.
    """

    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    children: list[Element | str] = field(default_factory=list)
    holds_blocks: bool = False
    holds_tables: bool = False

    @property
    def hidden(self) -> bool:
        """Whether a reader of the page does not see it.

        ``aria-hidden`` alone hides from screen readers only, so its text is kept.
        """
        if self.name in UNSEEN or (self.name == "dialog" and "open" not in self.attributes):
            return True
        if self.attributes.get("hidden", "until-found").lower() != "until-found":
            return True
        return UNDISPLAYED.search(self.attributes.get("style", "")) is not None


class _Builder:
    def __init__(self) -> None:
        self.root = Element("#root")
        self._open = [self.root]
        self._flat: Counter[str] = Counter()  # open elements that lie too deep to be kept
        self._pictures = 0  # svg elements so far

    def start(self, tag: Start, *, xml: bool) -> None:
        self._end_implied(tag.name)
        element = Element(tag.name, tag.attributes)
        leaf = tag.name in VOID or (tag.closed and (xml or self._is_foreign()))
        if leaf or len(self._open) <= DEEPEST or element.hidden:
            self._open[-1].children.append(element)
            self._mark(tag.name)
            self._pictures += tag.name == "svg"
            if not leaf and len(self._open) <= DEEPEST + 1:
                self._open.append(element)
        else:
            self._flat[tag.name] += 1

    def end(self, name: str) -> None:
        if self._flat[name]:
            self._flat[name] -= 1
            return
        walls = set[str]() if name == "table" else {"table"}
        if name not in CELLS | ROWS | {"table"}:
            walls |= CELLS
        for place in range(len(self._open) - 1, 0, -1):
            if self._open[place].name == name:
                self._close(place)
                return
            if self._open[place].name in walls:
                return

    def text(self, text: str) -> None:
        top = self._open[-1]
        if top.name == "head" and text.strip():  # its end tag was left out
            self._close(len(self._open) - 1)
            top = self._open[-1]
        top.children.append(text)

    def _mark(self, name: str) -> None:
        """Note a new block or table on the elements around it, up to one that knows."""
        for element in reversed(self._open):
            if element.holds_tables or (element.holds_blocks and name != "table"):
                return
            element.holds_blocks = element.holds_blocks or name in BLOCKS
            element.holds_tables = name == "table"
            if not element.holds_blocks:
                return

    def _end_implied(self, name: str) -> None:
        if name in HEADINGS and self._open[-1].name in HEADINGS:
            self._close(len(self._open) - 1)
        if name in BLOCKS and self._pictures:
            self._end_picture()
        if name not in OF_HEAD and self._open[-1].name == "head":
            self._close(len(self._open) - 1)
        if name in BLOCKS:
            self._end_first({"p"}, AROUND_PARAGRAPHS)
        if name in ENDS:
            self._end_first(*ENDS[name])

    def _end_picture(self) -> None:
        """End an ``svg`` that was left open, as browsers do at the next block."""
        names = [element.name for element in self._open]
        if "svg" in names and "foreignobject" not in names:
            self._close(names.index("svg"))

    def _end_first(self, names: set[str], walls: set[str]) -> None:
        """End the outermost of these elements within the nearest wall."""
        found = 0
        for place in range(len(self._open) - 1, 0, -1):
            if self._open[place].name in names:
                found = place
            elif self._open[place].name in walls:
                break
        if found:
            self._close(found)

    def _close(self, place: int) -> None:
        del self._open[place:]
        self._flat.clear()

    def _is_foreign(self) -> bool:
        return any(element.name in ("svg", "math") for element in self._open)


def tree(tokens: Iterable[Token], *, xml: bool = False) -> Element:
    """Return an element that holds all of a page.

    Args:
        xml: whether ``<x/>`` is an element without content, as in XHTML.
    """
    builder = _Builder()
    for token in tokens:
        if isinstance(token, str):
            builder.text(token)
        elif isinstance(token, Start):
            builder.start(token, xml=xml)
        else:
            builder.end(token.name)
    return builder.root


def page_title(root: Element) -> str:
    """Return the text of the first ``title`` that is the page's own, on one line."""
    todo = [root]
    while todo:
        element = todo.pop()
        if element.name == "title":
            words = [child for child in element.children if isinstance(child, str)]
            return " ".join(" ".join(words).split())
        if element.name != "svg":
            todo += [child for child in reversed(element.children) if isinstance(child, Element)]
    return ""
