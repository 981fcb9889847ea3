"""Log lines of the server: nothing in them controls a terminal or forges another line."""

from __future__ import annotations

import json
import logging
from io import StringIO

import pytest

from gritlm.serve.http import logging as logs
from tests.conftest import LOGGERS

HOSTILE = "\x1b]0;pwn\x07\x9b2J\u202e\nerror: forged"


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


def test_every_logger_that_the_server_sets_up_is_put_back_after_each_test():
    assert set(logs.LOGGERS) <= set(LOGGERS)
