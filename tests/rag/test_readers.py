"""What files say."""

from __future__ import annotations

from time import perf_counter

import pytest

from gritlm.rag import readers


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
