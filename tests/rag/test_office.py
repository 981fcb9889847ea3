"""Word, PowerPoint, Excel and EPUB files: their text, and files that are made to hurt."""

from __future__ import annotations

import datetime
import random
from base64 import b64encode
from contextlib import suppress
from io import BytesIO
from time import perf_counter

import openpyxl
import pptx as presentations
import pytest

from gritlm.errors import InputError
from gritlm.rag.ingest import readers
from gritlm.rag.ingest.file_reader import KINDS, FileReader
from gritlm.rag.ingest.office import office_files, zip_package
from gritlm.rag.ingest.sources import documents
from tests.office import docx, epub, paragraph, table, zipped

ENDINGS = (".docx", ".pptx", ".xlsx", ".epub")
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600


def word() -> bytes:
    rows = [["Animal", "Sleep"], ["Cat", "14 h"], ["Dog | wolf", "11 h"]]
    body = paragraph("Animals", "H1") + paragraph("Cats &amp; dogs sleep.") + table(rows)
    return docx(body, title="Sleep of animals")


def excel() -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Opening hours"
    sheet.append(["Day", "From", "Visitors", None])
    sheet.append([datetime.date(2026, 11, 29), datetime.time(9, 30), 12.0])
    sheet.append([None, "=1+1", 0.5])
    book.create_sheet("Empty")
    hidden = book.create_sheet("Hidden")
    hidden.append(["secret"])
    hidden.sheet_state = "hidden"
    book.properties.title = "Library"
    written = BytesIO()
    book.save(written)
    return written.getvalue()


def slides() -> bytes:
    made = presentations.Presentation()
    slide = made.slides.add_slide(made.slide_layouts[1])
    slide.shapes.title.text = "Cats"
    frame = slide.placeholders[1].text_frame
    frame.text = "They sleep"
    frame.add_paragraph().text = "most of the day"
    frame.paragraphs[1].level = 1
    slide.notes_slide.notes_text_frame.text = "Show a picture."
    second = made.slides.add_slide(made.slide_layouts[6])
    cells = second.shapes.add_table(2, 2, 0, 9_000_000, 900, 900).table
    for place, text in enumerate(["Animal", "Sleep", "Cat", "14 h"]):
        cells.cell(place // 2, place % 2).text = text
    group = second.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, 900, 900).text_frame.text = "Inside a group"
    written = BytesIO()
    made.save(written)
    return written.getvalue()


def book() -> bytes:
    return epub(["<h1>First</h1><p>Cats <b>sleep</b>.</p>", "<p>Dogs walk.</p>"], "Animals")


def test_a_word_document_keeps_headings_and_tables():
    content = readers.read(".docx", word())
    assert content.title == "Sleep of animals"
    assert content.markdown
    assert content.text.split("\n") == [
        "# Animals",
        "",
        "Cats & dogs sleep.",
        "",
        "| Animal | Sleep |",
        "| --- | --- |",
        "| Cat | 14 h |",
        "| Dog \\| wolf | 11 h |",
    ]


def test_a_workbook_is_a_table_per_visible_sheet():
    content = readers.read(".xlsx", excel())
    assert content.title == "Library"
    assert content.text.split("\n") == [
        "## Opening hours",
        "",
        "| Day | From | Visitors |",
        "| --- | --- | --- |",
        "| 2026-11-29 | 09:30:00 | 12 |",
        "|  |  | 0.5 |",
    ]


def test_a_presentation_is_a_section_per_slide():
    content = readers.read(".pptx", slides())
    assert content.title == ""  # the library fills in "PowerPoint Presentation"
    assert content.text.split("\n\n") == [
        "## Cats",
        "* They sleep\n  * most of the day",
        "Show a picture.",
        "## Slide 2",
        "Inside a group",
        "| Animal | Sleep |\n| --- | --- |\n| Cat | 14 h |",
    ]


def test_a_book_is_read_in_its_own_order_without_its_contents():
    content = readers.read(".epub", book())
    assert content.title == "Animals"
    assert content.text == "# First\n\nCats **sleep**.\n\nDogs walk."


def test_files_in_a_folder_become_documents(tmp_path):
    for ending, data in zip(ENDINGS, (word(), slides(), excel(), book()), strict=True):
        (tmp_path / f"a{ending}").write_bytes(data)
    (tmp_path / "b.docx").write_bytes(b"no document")
    skipped: list = []
    found = list(documents([tmp_path], skipped=skipped))
    assert len(found) == 4
    assert [each.path for each in skipped] == [str(tmp_path / "b.docx")]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("data", [b"PK\3\4 broken", b"text", word()[:900], zipped({"a": "b"})])
def test_a_broken_file_is_one_error(ending, data):
    with pytest.raises(InputError, match=r"^no \w+ \w+ that can be read") as refused:
        readers.read(ending, data)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_encrypted_file_is_named_as_one(ending):
    with pytest.raises(InputError, match=r"^encrypted, or no .* of an older version"):
        readers.read(ending, OLE)
    data = bytearray(zipped({"a": "b" * 50}))
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + offset] |= 1
    with pytest.raises(InputError, match=r"^encrypted: it asks for a password"):
        readers.read(ending, bytes(data))


def test_a_book_whose_chapters_are_encrypted_is_refused_and_one_with_fonts_is_read():
    about = '<encryption><c:CipherReference URI="OEBPS/{}"/></encryption>'
    name = "META-INF/encryption.xml"
    locked = epub(["<p>Cats.</p>"], more={name: about.format("text/page%200.xhtml")})
    with pytest.raises(InputError, match=r"encrypted by its seller \(DRM\)"):
        readers.read(".epub", locked)
    fonts = epub(["<p>Cats.</p>"], more={name: about.format("fonts/a.ttf")})
    assert readers.read(".epub", fonts).text == "Cats."


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_zip_bomb_is_refused_before_it_is_decompressed(ending):
    bomb = zipped({"word/document.xml": b"<a/>" * 25_000_000})
    assert len(bomb) < 500_000
    started = perf_counter()
    with pytest.raises(InputError, match=r"hold more than .* decompressed bytes"):
        readers.read(ending, bomb)
    assert perf_counter() - started < 0.5


def test_a_package_of_many_files_is_refused(monkeypatch):
    monkeypatch.setattr(zip_package, "MOST_FILES", 5)
    with pytest.raises(InputError, match="it holds 6 files; at most 5 are read"):
        readers.read(".docx", zipped({str(n): "x" for n in range(6)}))


def test_entities_that_expand_are_refused():
    prolog = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'
    with pytest.raises(InputError, match=r"'word/document\.xml' declares a document type"):
        readers.read(".docx", docx(paragraph("&b;"), prolog=prolog))
    entities = '<!DOCTYPE html [<!ENTITY a "aaaaaaaaaa">]><p>&a;</p>'
    assert "aaaaaaaaaa" not in readers.read(".epub", epub([entities + "<p>Cats.</p>"])).text


def test_a_workbook_of_too_many_cells_is_refused(monkeypatch):
    monkeypatch.setattr(office_files, "MOST_CELLS", 8)
    with pytest.raises(InputError, match="it has more than 8 cells; split it"):
        readers.read(".xlsx", excel())


def test_rows_far_apart_take_no_time():
    made = openpyxl.Workbook()
    made.active["A1"] = "first"
    made.active["XFD1048576"] = "last"
    written = BytesIO()
    made.save(written)
    started = perf_counter()
    with suppress(InputError):
        readers.read(".xlsx", written.getvalue())
    assert perf_counter() - started < 5


def test_tables_in_tables_are_read_or_refused():
    nested = paragraph("deep")
    for _ in range(3000):
        nested = f"<w:tbl><w:tr><w:tc>{nested}{paragraph('x')}</w:tc></w:tr></w:tbl>"
    with pytest.raises(InputError, match="no Word document that can be read"):
        readers.read(".docx", docx(nested))


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("gritlm.errors.find_spec", lambda name: None)
    for ending, library in ((".docx", "mammoth"), (".pptx", "pptx"), (".xlsx", "openpyxl")):
        with pytest.raises(InputError, match=rf"needs {library}, which is not .*\[office\]"):
            readers.read(ending, b"x")


def test_files_that_are_damaged_anyhow_are_read_or_refused():
    chance = random.Random(0)
    files = dict(zip(ENDINGS, (word(), slides(), excel(), book()), strict=True))
    for number in range(160):
        ending = ENDINGS[number % 4]
        data = bytearray(files[ending])
        for _ in range(chance.randrange(1, 9)):
            place = chance.randrange(len(data))
            data[place : place + chance.randrange(1, 4)] = chance.randbytes(chance.randrange(4))
        with suppress(InputError):
            readers.read(ending, bytes(data))


def test_the_server_reads_them_in_a_process_of_their_own():
    assert set(ENDINGS) <= set(KINDS)
    files = [word(), slides(), excel(), book()]
    pairs = [
        (ending, b64encode(data).decode()) for ending, data in zip(ENDINGS, files, strict=True)
    ]
    bomb = b64encode(zipped({"word/document.xml": b"<a/>" * 9_000_000})).decode()
    *read, refused = FileReader().contents([*pairs, (".docx", bomb)])
    for content, ending, data in zip(read, ENDINGS, files, strict=True):
        assert content == readers.read(ending, data)
    assert "decompressed bytes" in refused
