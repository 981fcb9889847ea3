"""Conversion of an HTML tree to Markdown: the visible text with its structure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from gritlm.rag.ingest.html.html_tables import as_markdown, layout
from gritlm.rag.ingest.html.html_tree import BLOCKS, HEADINGS, Element

LISTS = {"ul", "ol", "menu", "dir"}
INDENTED = 8  # most levels of indentation of lists and quotations
MARKED = {
    "b": "**",
    "strong": "**",
    "i": "*",
    "em": "*",
    "cite": "*",
    "dfn": "*",
    "del": "~~",
    "s": "~~",
    "strike": "~~",
}
CODE = {"code", "kbd", "samp", "tt"}
BETWEEN = {  # the parts of a formula
    "msup": "^",
    "mover": "^",
    "msub": "_",
    "munder": "_",
    "msubsup": "_^",
    "munderover": "_^",
    "mfrac": "/",
}
PLAIN = re.compile(r"[+\-−±]?[\w.,]+|[^\w\s]")  # exponent that needs no brackets
ORDINAL = re.compile(r"st|nd|rd|th|er|re|ème|o|a|os|as", re.IGNORECASE)
SIGN = re.compile(r"[^\w\s+\-−±]+|\[[^\]]*\]")  # footnote or trade mark sign
SPACE = re.compile(r"[ \t\n\r\f\xa0]+")
INVISIBLE = re.compile("[\xad\u200b\ufeff]")  # characters that only mark possible line breaks
ITEM = re.compile(r"\* |\d+\. ")
LANGUAGE = re.compile(r"\blang(?:uage)?-([\w+#.-]{1,30})")


def markdown_of(root: Element) -> str:
    """Return the visible text as Markdown, blocks separated by empty lines."""
    return INVISIBLE.sub("", "\n\n".join(_blocks(root.children, 0))).strip()


def _blocks(children: Sequence[Element | str], level: int) -> list[str]:
    """Return paragraphs, lists, tables and other blocks as Markdown.

    Args:
        children: elements and texts.
        level: number of lists and quotations around them.
    """
    found: list[str] = []
    run: list[Element | str] = []
    for child in children:
        if isinstance(child, str) or not (child.name in BLOCKS or child.holds_blocks):
            run.append(child)
        elif not child.hidden:
            found += _paragraph(run)
            run = []
            found += _block(child, level)
    return found + _paragraph(run)


def _paragraph(run: Sequence[Element | str]) -> list[str]:
    text = _line(run)
    return [text] if text else []


def _line(run: Sequence[Element | str]) -> str:
    """Return inline content as Markdown, with line breaks only for ``br``."""
    text = re.sub(" {2,}", " ", _inline(run))
    return "\n".join(line.strip() for line in text.split("\n")).strip()


def _block(element: Element, level: int) -> list[str]:
    name = element.name
    if name in HEADINGS:
        return _heading(element, level)
    if name in ("pre", "xmp"):
        return _fenced(element)
    if name in LISTS:
        return _list(element, level)
    if name == "dl":
        return _definitions(element, level)
    if name == "blockquote":
        text = "\n\n".join(_blocks(element.children, level + 1))
        return [_indent(text, "> ", "> ", level)] if text else []
    if name == "table":
        return _table(element, level)
    if name == "li":
        return _list(Element("ul", children=[element]), level)
    return ["---"] if name == "hr" else _blocks(element.children, level)


def _heading(element: Element, level: int) -> list[str]:
    blocks = _blocks(element.children, level)
    if not blocks:
        return []
    return [f"{'#' * int(element.name[1])} {' '.join(blocks[0].split())}", *blocks[1:]]


def _fenced(element: Element) -> list[str]:
    code = "".join(_raw_text(element)).strip("\n")
    if not code.strip():
        return []
    inner = next((child for child in element.children if isinstance(child, Element)), element)
    found = LANGUAGE.search(f"{element.attributes.get('class')} {inner.attributes.get('class')}")
    longest = max(map(len, re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{found[1] if found else ''}\n{code}\n{fence}"]


def _raw_text(element: Element) -> Iterator[str]:
    """Yield the texts of an element with their white space."""
    for child in element.children:
        if isinstance(child, str):
            yield child
        elif child.name == "br":
            yield "\n"
        elif child.name in ("sup", "sub"):
            yield _inline([child])
        elif not child.hidden:
            yield from _raw_text(child)


def _list(element: Element, level: int) -> list[str]:
    items: list[list[str]] = []
    for child in element.children:
        if isinstance(child, Element) and child.name == "li":
            if not child.hidden:
                items.append(_blocks(child.children, level + 1))
        elif blocks := _blocks([child], level + 1):  # a list directly inside a list
            items = items or [[]]
            items[-1] += blocks
    number = _number(element.attributes.get("start"), 1)
    lines = []
    for item in filter(None, items):
        bullet = f"{number}. " if element.name == "ol" else "* "
        number += 1
        lines.append(_indent(_join_blocks(item), bullet, " " * len(bullet), level))
    return ["\n".join(lines)] if lines else []


def _join_blocks(blocks: Sequence[str]) -> str:
    """Return the blocks of an item as one text; an inner list follows on the next line."""
    text = blocks[0]
    for block in blocks[1:]:
        text += ("\n" if ITEM.match(block) else "\n\n") + block
    return text


def _indent(text: str, first: str, rest: str, level: int) -> str:
    if level >= INDENTED:
        rest = ""
    head, *lines = text.split("\n")
    return "\n".join([first + head, *((rest + line).rstrip() for line in lines)])


def _number(value: str | None, usual: int) -> int:
    return int(value) if value and re.fullmatch(r"\d{1,9}", value) else usual


def _definitions(element: Element, level: int) -> list[str]:
    """Return terms, each with its definitions on the following lines."""
    groups: list[list[str]] = []
    for child in _definition_items(element):
        text = _join_blocks(_blocks(child.children, level + 1) or [""])
        if child.name != "dd":
            groups.append([text])
        elif groups:
            groups[-1].append(_indent(text, ": ", "  ", level))
        else:
            groups.append([_indent(text, ": ", "  ", level)])
    return ["\n".join(filter(None, group)) for group in groups if any(group)]


def _definition_items(element: Element) -> Iterator[Element]:
    """Yield terms and definitions, those inside a ``div`` too."""
    for child in element.children:
        if isinstance(child, Element) and not child.hidden:
            if child.name == "div":
                yield from _definition_items(child)
            else:
                yield child
        elif isinstance(child, str) and child.strip():
            yield Element("dd", children=[child])


def _table(element: Element, level: int) -> list[str]:
    found = layout(element)
    rows = [[(cell, _blocks(cell.children, level)) for cell in row] for row in found.rows]
    caption = [text for child in found.captions for text in _blocks(child.children, level)]
    if found.is_data:
        return caption + as_markdown(rows)
    return caption + [block for row in rows for _, blocks in row for block in blocks]


def _inline(run: Sequence[Element | str]) -> str:
    return "".join(
        SPACE.sub(" ", child) if isinstance(child, str) else _phrase(child)
        for child in run
        if isinstance(child, str) or not child.hidden
    )


def _phrase(element: Element) -> str:
    """Return an inline element as Markdown."""
    name = element.name
    attributes = element.attributes
    if name == "br":
        return "\n"
    if name in ("img", "area"):
        return f" {alt} " if (alt := SPACE.sub(" ", attributes.get("alt", "")).strip()) else ""
    if name == "input":
        return _box(attributes.get("type", ""), on="checked" in attributes)
    if name == "math" or name in BETWEEN or name == "msqrt":
        return _formula(element)
    inner = _inline(element.children)
    if name in MARKED:
        return _enclose(inner, MARKED[name])
    if name in CODE:
        return _enclose(inner, "``" if "`" in inner else "`")
    return _mark_phrase(name, inner)


def _mark_phrase(name: str, inner: str) -> str:
    if not inner.strip():
        return inner
    if name in ("sup", "sub"):
        return _script(inner.strip(), "^" if name == "sup" else "_")
    if name == "q":
        return f'"{inner.strip()}"'
    if name == "rt":
        return f"({inner.strip()})"
    return f"{inner} " if name in ("option", "button", "textarea") else inner


def _enclose(inner: str, mark: str) -> str:
    """Return text between two marks, with its outer white space moved outside."""
    text = inner.strip()
    if not text or text.startswith(mark):
        return inner
    before = " " if inner[0].isspace() else ""
    after = " " if inner[-1].isspace() else ""
    return f"{before}{mark}{text}{mark}{after}"


def _script(text: str, mark: str) -> str:
    """Return a superscript or subscript with its mark; signs and ordinals get no mark."""
    if mark == "^" and (SIGN.fullmatch(text) or ORDINAL.fullmatch(text)):
        return text
    return f"{mark}{_bracket(text)}"


def _bracket(text: str) -> str:
    return text if PLAIN.fullmatch(text) else f"({text})"


def _box(kind: str, *, on: bool) -> str:
    if kind.lower() not in ("checkbox", "radio"):
        return ""
    return "[x] " if on else "[ ] "


def _formula(element: Element) -> str:
    if alt := element.attributes.get("alttext", "").strip():
        return f" {alt} "
    if element.name not in BETWEEN:
        inner = _inline([child for child in element.children if not _is_blank(child)])
        return f"√({inner})" if element.name == "msqrt" else inner
    parts = [_inline([child]).strip() for child in element.children if not _is_blank(child)]
    if not parts:
        return ""
    marks = BETWEEN[element.name]
    first = _bracket(parts[0]) if element.name == "mfrac" else parts[0]
    return first + "".join(
        f"{marks[min(number, len(marks) - 1)]}{_bracket(part)}"
        for number, part in enumerate(parts[1:])
    )


def _is_blank(child: Element | str) -> bool:
    return isinstance(child, str) and not child.strip()
