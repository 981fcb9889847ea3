"""Log lines of the server: nothing in them controls a terminal or forges another line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from io import StringIO

import pytest

from gritlm.serve.http import logging as logs

HOSTILE = "\x1b]0;pwn\x07\x9b2J\u202e\nerror: forged"


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in logs.LOGGERS]
    before = [(each.handlers, each.level, each.propagate) for each in loggers]
    yield
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers, each.level, each.propagate = handlers, level, propagate


@pytest.mark.parametrize("json_lines", [False, True])
def test_a_title_in_a_log_line_stays_in_it_and_is_escaped(json_lines: bool):
    stream = StringIO()
    logs.configure(json=json_lines, stream=stream)
    logging.getLogger("gritlm.rag").warning("title %s", HOSTILE)
    written = stream.getvalue()
    assert written.count("\n") == 1
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(written)
    if json_lines:
        assert json.loads(written)["message"] == f"title {HOSTILE}"
