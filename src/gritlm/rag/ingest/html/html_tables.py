"""HTML tables as rows of cells, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gritlm.rag.ingest.html.html_tree import Element

WIDEST = 20  # most columns of a spanning cell
LONGEST = 100  # most rows of a spanning cell
SHORT = 200  # most characters of a text that is repeated in all spanned cells


@dataclass(frozen=True)
class Layout:
    """Visible captions and rows of a table, and whether it holds data."""

    captions: list[Element] = field(default_factory=list)
    rows: list[list[Element]] = field(default_factory=list)
    is_data: bool = True


def layout(table: Element) -> Layout:
    """Return captions and rows of a table; a table used for page layout holds no data."""
    found = Layout()
    for row in _rows(table, found):
        cells = [
            child
            for child in row.children
            if isinstance(child, Element) and child.name in ("td", "th") and not child.hidden
        ]
        if cells:
            found.rows.append(cells)
    arranges = table.attributes.get("role", "").lower() in ("presentation", "none")
    nested = any(cell.holds_tables for row in found.rows for cell in row)
    single = all(len(row) == 1 for row in found.rows)
    return Layout(found.captions, found.rows, not (arranges or nested or single))


def _rows(element: Element, found: Layout) -> Iterator[Element]:
    """Yield rows; content outside of cells counts as a caption, as browsers show it first."""
    visible = [
        child for child in element.children if isinstance(child, Element) and not child.hidden
    ]
    cells = [child for child in visible if child.name in ("td", "th")]
    if cells:
        yield Element("tr", children=[*cells])
    for child in element.children:
        if isinstance(child, str):
            if child.strip():
                found.captions.append(Element("p", children=[child]))
        elif child.hidden or child.name in ("td", "th", "colgroup"):
            continue
        elif child.name == "tr":
            found.captions.extend(_loose(child))
            yield child
        elif child.name in ("thead", "tbody", "tfoot"):
            yield from _rows(child, found)
        else:
            found.captions.append(Element("p", children=[*child.children]))


def _loose(row: Element) -> Iterator[Element]:
    for child in row.children:
        if isinstance(child, str):
            if child.strip():
                yield Element("p", children=[child])
        elif child.name not in ("td", "th") and not child.hidden:
            yield Element("p", children=[child])


def as_markdown(rows: Sequence[Sequence[tuple[Element, list[str]]]]) -> list[str]:
    """Return a Markdown table, in a list, whose first row is the header; empty without text.

    The text of a cell that spans columns or rows is repeated in each of them.

    Args:
        rows: cells of each row, with their blocks as Markdown.
    """
    grid = _grid(rows)
    width = max(map(len, grid), default=0)
    lines = [f"| {' | '.join(row + [''] * (width - len(row)))} |" for row in grid if any(row)]
    if not lines:
        return []
    rule = "| " + " | ".join(["---"] * width) + " |"
    return ["\n".join([lines[0], rule, *lines[1:]])]


def _grid(rows: Sequence[Sequence[tuple[Element, list[str]]]]) -> list[list[str]]:
    grid: list[list[str]] = []
    spans: dict[int, tuple[int, str]] = {}  # by column: rows left of a spanning cell, and its text
    for row in rows:
        line: list[str] = []
        for cell, blocks in row:
            _fill_spanned(line, spans)
            text = " ".join(" ".join(blocks).split()).replace("|", "\\|")
            repeated = text if len(text) <= SHORT else ""
            down = _span(cell, "rowspan", LONGEST) - 1
            for number in range(_span(cell, "colspan", WIDEST)):
                if down > 0:
                    spans[len(line)] = (down, repeated)
                line.append(repeated if number else text)
        _fill_spanned(line, spans)
        grid.append(line)
    return grid


def _fill_spanned(line: list[str], spans: dict[int, tuple[int, str]]) -> None:
    """Append the texts of cells that span from rows above."""
    while len(line) in spans:
        left, text = spans.pop(len(line))
        if left > 1:
            spans[len(line)] = (left - 1, text)
        line.append(text)


def _span(cell: Element, name: str, most: int) -> int:
    value = cell.attributes.get(name, "")
    return min(max(int(value), 1), most) if value.isdecimal() and len(value) < 6 else 1
