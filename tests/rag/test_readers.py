"""What files say."""

from __future__ import annotations

from time import perf_counter

import pytest

from gritlm.errors import InputError
from gritlm.rag import readers
from tests.pdfs import lines_pdf


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Dogs\n\nText", "Dogs"), ("Text\n#   Dogs and cats ##  \n", "Dogs and cats"),
        ("## Second\n# First", "First"), ("#\n#  \n# Dogs", "Dogs"), ("#Dogs", ""), ("Text", ""),
    ],
)  # fmt: skip
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


def test_a_text_far_larger_than_its_file_is_refused():
    page = "\n".join(["word " * 200] * 40)
    data = lines_pdf([page], copies=100)
    with pytest.raises(InputError, match="hold more than 1,048,576 characters"):
        readers.read(".pdf", data)


def test_front_matter_has_the_size_of_metadata():
    with pytest.raises(InputError, match="front matter has more than 16,384 bytes"):
        readers.markdown(b"---\nnote: " + b"x" * 20_000 + b"\n---\nText.\n")


def test_front_matter_that_repeats_itself_is_left_in_the_text():
    bomb = "---\na: &a [x, x]\n" + "b: &b [*a, *a, *a]\n---\nText.\n"
    assert readers.markdown(bomb.encode()).text.startswith("---\na: &a")
