"""Text for terminals: control characters become escapes, everything else stays as it is."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from gritlm.printable import PrintableFormatter, printable, printable_json


@pytest.mark.parametrize(
    ("character", "escape"),
    [
        ("\x1b", r"\x1b"),
        ("\x07", r"\x07"),
        ("\r", r"\r"),
        ("\x00", r"\x00"),
        ("\x7f", r"\x7f"),
        ("\x9b", r"\x9b"),  # a control sequence in one character
        ("\x85", r"\x85"),
        ("\u202e", r"\u202e"),  # right to left from here on
        ("\u2066", r"\u2066"),
        ("\u200b", r"\u200b"),
        ("\u2028", r"\u2028"),
        ("\ufeff", r"\ufeff"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_a_character_that_a_terminal_obeys_or_hides_becomes_its_escape(character, escape):
    assert printable(f"a{character}b") == f"a{escape}b"
    in_json = printable_json(json.dumps(f"a{character}b", ensure_ascii=False))
    assert character not in in_json
    assert json.loads(in_json) == f"a{character}b"


def test_all_of_c0_and_c1_are_escaped_but_tab_and_line_feed():
    controls = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
    assert [each for each in controls if printable(each) == each] == ["\t", "\n"]


@pytest.mark.parametrize(
    "text", ["Grüße, 世界 – “ok”", "नमस्\u200dते", "می\u200cخواهم", "👩\u200d🔬", "a\tb\nc", ""]
)
def test_words_of_every_language_stay_as_they_are(text):
    assert printable(text) == text


def test_a_sequence_in_two_pieces_of_a_stream_is_escaped_too():
    assert printable("\x1b") + printable("[31mred") == r"\x1b[31mred"


def test_a_line_stays_a_line_where_that_matters():
    assert printable("one\ntwo", one_line=True) == r"one\ntwo"


def test_a_log_line_cannot_forge_the_next_and_a_traceback_is_escaped():
    try:
        raise ValueError("\x1b[31mred")
    except ValueError:
        record = logging.LogRecord(
            "x", logging.ERROR, "", 1, "title %s", ("\x1b]0;\x07\nerror: forged",), sys.exc_info()
        )
    line, *traceback = PrintableFormatter().format(record).splitlines()
    assert line == r"title \x1b]0;\x07\nerror: forged"
    assert len(traceback) > 2
    assert "\x1b" not in "".join(traceback)
    assert traceback[-1] == r"ValueError: \x1b[31mred"
