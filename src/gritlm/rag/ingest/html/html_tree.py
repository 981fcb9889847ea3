"""Tree of HTML elements of bounded depth, built from tags and texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gritlm.rag.ingest.html.html_tokens import Start, Token

DEEPEST = 100  # most nested elements; tags of deeper elements are ignored
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
# By start tag: open elements that it ends, and elements at which the search stops.
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
    """HTML element with its attributes and content.

    Attributes:
        name: tag name in lower case.
        attributes: values by name.
        children: inner elements and texts, in order.
        holds_blocks: whether it contains a block at any depth.
        holds_tables: whether it contains a table at any depth.
    """

    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    children: list[Element | str] = field(default_factory=list)
    holds_blocks: bool = False
    holds_tables: bool = False

    @property
    def hidden(self) -> bool:
        """Whether the element is invisible on the page.

        ``aria-hidden`` alone hides it from screen readers only, so its text is kept.
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
        self._flat: Counter[str] = Counter()  # open elements too deep to be kept, by name
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
        for depth in range(len(self._open) - 1, 0, -1):
            if self._open[depth].name == name:
                self._close(depth)
                return
            if self._open[depth].name in walls:
                return

    def text(self, text: str) -> None:
        top = self._open[-1]
        if top.name == "head" and text.strip():  # the end tag of head is missing
            self._close(len(self._open) - 1)
            top = self._open[-1]
        top.children.append(text)

    def _mark(self, name: str) -> None:
        """Mark the open elements as containing a block or table, up to a marked one."""
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
        """End an unclosed ``svg`` at the next block, as browsers do."""
        names = [element.name for element in self._open]
        if "svg" in names and "foreignobject" not in names:
            self._close(names.index("svg"))

    def _end_first(self, names: set[str], walls: set[str]) -> None:
        """End the outermost open element of these names inside the nearest wall."""
        found = 0
        for depth in range(len(self._open) - 1, 0, -1):
            if self._open[depth].name in names:
                found = depth
            elif self._open[depth].name in walls:
                break
        if found:
            self._close(found)

    def _close(self, depth: int) -> None:
        del self._open[depth:]
        self._flat.clear()

    def _is_foreign(self) -> bool:
        return any(element.name in ("svg", "math") for element in self._open)


def tree(tokens: Iterable[Token], *, xml: bool = False) -> Element:
    """Return the root element of a page.

    Args:
        tokens: tags and texts of the page.
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
    """Return the page's title on one line: the first ``title`` outside of any ``svg``."""
    todo = [root]
    while todo:
        element = todo.pop()
        if element.name == "title":
            words = [child for child in element.children if isinstance(child, str)]
            return " ".join(" ".join(words).split())
        if element.name != "svg":
            todo += [child for child in reversed(element.children) if isinstance(child, Element)]
    return ""
