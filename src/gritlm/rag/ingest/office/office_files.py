"""Readers of Word, PowerPoint and Excel files, with mammoth, python-pptx and openpyxl."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from typing import Any
from zipfile import ZipFile

from gritlm.errors import InputError, require_libraries
from gritlm.rag.ingest.encodings import decoded
from gritlm.rag.ingest.file_content import FileContent, own_title
from gritlm.rag.ingest.html.html_markdown import markdown_of
from gritlm.rag.ingest.html.html_tables import as_markdown
from gritlm.rag.ingest.html.html_tokens import tokens
from gritlm.rag.ingest.html.html_tree import Element, tree
from gritlm.rag.ingest.office.zip_package import check_xml, package, part

MOST_CELLS = 5_000_000  # of a workbook, empty ones between others included
_CELL = Element("td")
_TITLE = "dc:title"


def docx(data: bytes) -> FileContent:
    """Return the text of a Word document as Markdown: headings, lists, tables and footnotes.

    Raises:
        InputError: if the document is broken, encrypted, or too large when it is decompressed.
        MissingExtraError: without mammoth.
    """
    _require("mammoth", "a Word document")
    import mammoth

    with package(data, "Word document") as opened:
        check_xml(opened)
        html = mammoth.convert_to_html(
            BytesIO(data), include_embedded_style_map=False, convert_image=_without_image
        )
        return FileContent(markdown_of(tree(tokens(html.value))), _title(opened), markdown=True)


def pptx(data: bytes) -> FileContent:
    """Return the text of a presentation as Markdown: a section per slide, with its notes.

    Raises:
        InputError: if the presentation is broken, encrypted, or too large when decompressed.
        MissingExtraError: without python-pptx.
    """
    _require("pptx", "a PowerPoint presentation")
    import pptx as library

    with package(data, "PowerPoint presentation") as opened:
        check_xml(opened)
        slides = library.Presentation(BytesIO(data)).slides
        text = "\n\n".join(_slide(number, slide) for number, slide in enumerate(slides, start=1))
        return FileContent(text, _title(opened), markdown=True)


def xlsx(data: bytes) -> FileContent:
    """Return the cells of a workbook as Markdown: a table per sheet, with computed values.

    Raises:
        InputError: if the workbook is broken, encrypted, or too large when it is decompressed.
        MissingExtraError: without openpyxl.
    """
    _require("openpyxl", "an Excel workbook")
    import openpyxl

    with package(data, "Excel workbook") as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about parts that hold no text, such as styles
        check_xml(opened)
        book = openpyxl.load_workbook(
            BytesIO(data), read_only=True, data_only=True, keep_links=False
        )
        return FileContent("\n\n".join(_sheets(book)), _title(opened), markdown=True)


def _require(library: str, document: str) -> None:
    require_libraries((library,), what=f"{document} needs", extra="office")


def _without_image(_: Any) -> list[Any]:
    return []


def _title(opened: ZipFile) -> str:
    """Return the title in the properties of a file; empty if it has none."""
    properties = part(opened, "docProps/core.xml")
    if properties is None:
        return ""
    todo = [tree(tokens(decoded(properties)), xml=True)]
    while todo:
        element = todo.pop()
        if element.name == _TITLE:
            return own_title("".join(child for child in element.children if isinstance(child, str)))
        todo += [child for child in element.children if isinstance(child, Element)]
    return ""


def _slide(number: int, slide: Any) -> str:
    """Return a slide as Markdown: its title, its texts from top to bottom, and its notes."""
    title = slide.shapes.title
    words = " ".join(title.text_frame.text.split()) if title is not None else ""
    blocks = [f"## {words or f'Slide {number}'}"]
    for shape in _in_reading_order(slide.shapes):
        if title is None or shape.shape_id != title.shape_id:
            blocks += _shape(shape)
    if slide.has_notes_slide and (notes := slide.notes_slide.notes_text_frame):
        blocks += _paragraphs(notes)
    return "\n\n".join(block for block in blocks if block)


def _in_reading_order(shapes: Iterable[Any]) -> list[Any]:
    return sorted(shapes, key=lambda shape: (shape.top or 0, shape.left or 0))


def _shape(shape: Any) -> Iterator[str]:
    """Yield the texts and tables of a shape, and of the shapes in a group."""
    if hasattr(shape, "shapes"):
        for inner in _in_reading_order(shape.shapes):
            yield from _shape(inner)
    elif getattr(shape, "has_table", False):
        yield _table([cell.text for cell in row.cells] for row in shape.table.rows)
    elif getattr(shape, "has_text_frame", False):
        yield from _paragraphs(shape.text_frame)


def _paragraphs(frame: Any) -> list[str]:
    """Return the paragraphs of a text, those of a list as one block."""
    lines = [
        f"{'  ' * paragraph.level}* {text}"
        for paragraph in frame.paragraphs
        if (text := " ".join(paragraph.text.split()))
    ]
    return [lines[0].strip()[2:]] if len(lines) == 1 else ["\n".join(lines)]


def _sheets(book: Any) -> Iterator[str]:
    """Yield each sheet with cells as a heading and a table.

    Raises:
        InputError: for a workbook with too many cells.
    """
    cells = 0
    for sheet in book.worksheets:
        if sheet.sheet_state != "visible":
            continue
        rows = []
        for values in sheet.iter_rows(values_only=True):
            cells += len(values)
            if cells > MOST_CELLS:
                raise InputError(
                    f"it has more than {MOST_CELLS:,} cells; split it, or save it as .csv"
                )
            row = [_cell(value) for value in values]
            while row and not row[-1]:
                row.pop()
            rows.append(row)
        if table := _table(rows):
            yield f"## {sheet.title}\n\n{table}"


def _cell(value: Any) -> str:
    """Return the value of a cell as text; a date in ISO 8601, a whole number without point."""
    if value is None:
        return ""
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of texts as a Markdown table; empty without text."""
    return "".join(as_markdown([[(_CELL, [text]) for text in row] for row in rows]))
