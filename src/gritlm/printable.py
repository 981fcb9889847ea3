r"""Escapes for untrusted text that is printed on a terminal.

Control characters can rename the window of a terminal, change colours, move the cursor and, on some
terminals, paste text as if it were typed. Each is replaced by its escape, such as ``\x1b``. So are
characters that reverse or hide the text around them. The two zero-width joiners are kept: Persian,
Hindi and many emoji need them.
"""

from __future__ import annotations

import logging
import re
from types import TracebackType

_ExceptionInfo = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)

# C0 without tab and line feed, DEL and C1; bidirectional marks, embeddings, overrides, isolates;
# zero-width characters; line and paragraph separators; halves of characters; invisible tags.
_UNSAFE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f"
)
_CHARACTERS = re.compile(f"[{_UNSAFE}]")
_OF_A_LINE = re.compile(f"[\n{_UNSAFE}]")


def printable(text: str, *, one_line: bool = False) -> str:
    r"""Escape control characters and characters that hide text.

    Characters are escaped one by one, so a control sequence that is split between two pieces of a
    stream is escaped too.

    Args:
        text: the untrusted text.
        one_line: escape line feeds too, for log lines and table cells.
    """
    return (_OF_A_LINE if one_line else _CHARACTERS).sub(_escape, text)


def excerpt(text: str, length: int = 100) -> str:
    """Return the first ``length`` characters of untrusted text, escaped and on one line."""
    return printable(text[:length], one_line=True) + ("…" if len(text) > length else "")


def printable_json(text: str) -> str:
    r"""Escape the same characters of a JSON text as ``\u001b``, which leaves its data unchanged."""
    return _CHARACTERS.sub(_escape_json, text)


class PrintableFormatter(logging.Formatter):
    """Formatter of log lines with the control characters escaped.

    Args:
        one_line: escape line feeds in messages, so that a message cannot forge another log line.
            Tracebacks keep their lines.
    """

    def __init__(self, *, one_line: bool = True) -> None:
        super().__init__()
        self._one_line = one_line

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record), one_line=self._one_line)

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802
        return printable(super().formatException(ei))


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def _escape_json(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
