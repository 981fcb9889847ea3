"""What files say."""

from __future__ import annotations

import random
import zlib
from contextlib import suppress
from io import BytesIO
from time import perf_counter

import pytest

from gritlm.errors import InputError
from gritlm.rag.ingest import pdf_text, readers, records, rows
from tests.pdfs import form_pdf, lines_pdf
from tests.rag.test_corpus import CORPUS


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Dogs\n\nText", "Dogs"),
        ("Text\n#   Dogs and cats ##  \n", "Dogs and cats"),
        ("## Second\n# First", "First"),
        ("#\n#  \n# Dogs", "Dogs"),
        ("#Dogs", ""),
        ("Text", ""),
    ],
)
def test_the_first_heading_is_the_title(text: str, title: str):
    assert readers.markdown(text.encode()).title == title


@pytest.mark.parametrize("line", [b"# a" + b"# " * 500_000 + b"x", b"# " + b" " * 1_000_000])
def test_a_line_made_to_take_long_takes_no_time(line: bytes):
    started = perf_counter()
    readers.markdown(line)
    assert perf_counter() - started < 1


UNCLOSED = {
    "bold": "<b>" * 60_000,
    "div": "<div>" * 36_000,
    "lists": "<ul><li>a" * 20_000,
    "paragraphs": "<p><b><i>x" * 18_000,
    "a tag of spaces": "<a" + " " * 180_000,
    "tags within tags": "<a <" * 45_000,
    "comments": "<!--" * 45_000,
    "sections": "<![CDATA[" * 20_000,
    "quotes": "<a b='" * 30_000,
    "tables": "<table><tr><td>x" * 12_000,
    "titles": "<title>" * 26_000,
    "end tags": "<i>" * 99 + "</q>" * 45_000,
    "a large number": "&#" + "9" * 180_000,
    "instructions": "<?" * 90_000,
}


@pytest.mark.parametrize("name", UNCLOSED)
def test_a_page_of_unclosed_tags_takes_no_time(name: str):
    started = perf_counter()
    readers.html(UNCLOSED[name].encode())
    assert perf_counter() - started < 5


def test_an_encoding_is_found_in_no_time_however_long_the_text_is():
    words = ["château", "reçoit", "chaque", "été", "des", "visiteurs", "où", "êtes-vous", "allé"]
    text = " ".join(words[number % 9] for number in range(900_000))[:5_500_000]
    started = perf_counter()
    assert readers.plain(text.encode("cp1252")).text == text
    assert perf_counter() - started < 5


def test_the_pages_of_a_text_begin_where_their_words_do():
    pages = ["one two", "", "three-\x00\nfour and hyphen-", "ated words", "so\xadft -\nlast"]
    text, starts = pdf_text.text_of(pages)
    assert text == "one two\n\nthreefour and hyphenated words\n\nsoft -\nlast"
    assert starts == (0, 9, 9, 29, 41)
    assert [text[start:][:4] for start in starts] == ["one ", "thre", "thre", "ated", "soft"]


def test_a_page_that_repeats_the_head_of_another_begins_behind_it():
    pages = [f"Annual report of the company {n}\nText {n * 'x'}" for n in range(1, 5)]
    text, starts = pdf_text.text_of(pages)
    assert [text[start:].split()[0] for start in starts] == ["Annual", "Text", "Text", "Text"]


def test_long_lines_take_no_time():
    started = perf_counter()
    readers.markdown(b"a <!-- b --> " * 200_000)
    pdf_text.text_of(["a" * 500_000 + "-\n" + "b" * 500_000] * 2)
    with pytest.raises(InputError, match="expected a header of at most 1,000"):
        list(records.records(".csv", BytesIO(b"a," * 1_000_000 + b"\n"), max_bytes=5_000_000))
    assert perf_counter() - started < 5


def test_files_that_are_damaged_anyhow_are_read_or_refused():
    chance = random.Random(0)
    files = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
    endings = [*readers.READERS, *records.KINDS]
    for _ in range(1500):
        data = bytearray(chance.choice(files))
        for _ in range(chance.randrange(1, 6)):
            place = chance.randrange(len(data) + 1)
            data[place : place + chance.randrange(9)] = chance.choice(PIECES)
        with suppress(InputError):
            _read_anyhow(chance.choice(endings), bytes(data))


PIECES = [
    b"",
    b"<",
    b">",
    b"<table>",
    b"<td rowspan=3>",
    b"<sup>",
    b"<!--",
    b"<svg>",
    b"&#x110000;",
    b"---\n",
    b"```\n",
    b"[",
    b"}",
    b'"',
    b"\0",
    b"\xff\xfe",
    b"\xe9",
    b"\x1b$B",
    b"NaN",
]


def _read_anyhow(ending: str, data: bytes) -> None:
    if ending in readers.READERS:
        readers.read(ending, data)
        return
    for _, row in records.records(ending, BytesIO(data), max_bytes=10_000):
        if isinstance(row, dict):
            rows.document(row)


@pytest.mark.parametrize("name", ["ISO-8859ml", "punycode", "hex", "unicode_escape", "idna"])
def test_a_name_that_is_no_encoding_is_not_used(name: str):
    page = f"<meta charset={name}><p>Größe, Häuser und Öl kosten jährlich natürlich mehr.</p>"
    assert "Größe, Häuser" in readers.html(page.encode("cp1252")).text


def test_a_text_far_larger_than_its_file_is_refused():
    page = "\n".join(["word " * 200] * 40)
    data = lines_pdf([page], copies=100)
    with pytest.raises(InputError, match="hold more than 1,048,576 bytes of page content"):
        readers.read(".pdf", data)


def test_a_pdf_that_expands_is_refused_before_its_text_is_extracted():
    line = b"(Cats sleep most of the day.) Tj T*\n"
    text = b"BT /F1 9 Tf 10 TL " + line * 20_000 + b"ET"
    wide = lines_pdf(["\n".join(["Cats sleep most of the day."] * 200_000)])
    once, often = form_pdf(text, drawn=1), form_pdf(text, drawn=20)
    deep = form_pdf(text, drawn=10, nested=6)
    assert max(map(len, (wide, once, often, deep))) < 40_000
    started = perf_counter()
    inherited = form_pdf(text, drawn=20, inherited=True)
    for data in (wide, often, deep, inherited):
        with pytest.raises(InputError, match="bytes of page content; split the file"):
            readers.read(".pdf", data)
    assert perf_counter() - started < 5
    assert readers.read(".pdf", once).text.count("Cats sleep") == 20_000


def test_a_form_that_is_broken_is_left_out():
    data = form_pdf(b"BT /F1 9 Tf (Dogs walk.) Tj ET", drawn=1, nested=1)
    draws = zlib.compress(b"/F Do\n")
    assert data.count(draws) == 2
    first = data.index(draws)
    damaged = data[: first + len(draws)] + data[first + len(draws) :].replace(
        draws, b"\xff" * len(draws)
    )
    with pytest.raises(InputError, match="a PDF without text"):
        readers.read(".pdf", damaged)


def test_a_form_that_draws_itself_is_read_once():
    text = b"BT /F1 9 Tf (Cats sleep.) Tj ET /F Do "
    data = form_pdf(text, drawn=2).replace(
        b"/BBox[0 0 9 9]/Resources<<", (b"/BBox[0 0 9 9]/Resources<</XObject<</F 6 0 R>>")
    )
    assert readers.read(".pdf", data).text.split() == ["Cats", "sleep."] * 2


def test_front_matter_has_the_size_of_metadata():
    with pytest.raises(InputError, match="front matter has more than 16,384 bytes"):
        readers.markdown(b"---\nnote: " + b"x" * 20_000 + b"\n---\nText.\n")


def test_front_matter_that_repeats_itself_is_left_in_the_text():
    bomb = "---\na: &a [x, x]\n" + "b: &b [*a, *a, *a]\n---\nText.\n"
    assert readers.markdown(bomb.encode()).text.startswith("---\na: &a")
