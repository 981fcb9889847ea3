"""Parser of generated text: plain text and tool calls, in pieces as they are generated.

The text follows the grammar of a format of :mod:`gritlm.lm.tools.call_format`, and may be cut
anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from gritlm.lm.tools.call_format import HERMES, CallFormat
from gritlm.lm.tools.native_formats import PYTHON_TAG

_BEFORE_NAME = '{"name": "'
_BEHIND_NAME = '", "parameters": {'


@dataclass(frozen=True)
class CallPiece:
    """New text of a tool call.

    Attributes:
        index: number of the call in its answer.
        arguments: new text of its arguments.
        name: name of the tool, in the first piece of a call; None in the others.
    """

    index: int
    arguments: str
    name: str | None = None


@dataclass
class Pieces:
    """New text of an answer.

    Attributes:
        content: new text outside of calls.
        calls: new text of calls, at most one piece for each call.
    """

    content: str = ""
    calls: list[CallPiece] = field(default_factory=list)

    def add_arguments(self, index: int, text: str) -> None:
        """Append text to the arguments of a call."""
        if self.calls and self.calls[-1].index == index:
            last = self.calls.pop()
            self.calls.append(CallPiece(index, last.arguments + text, last.name))
        elif text:
            self.calls.append(CallPiece(index, text))


class CallParser:
    """Incremental parser of one answer.

    Args:
        call_format: format of the calls.

    Attributes:
        count: number of calls so far whose name is complete.
    """

    def __init__(self, call_format: CallFormat = HERMES) -> None:
        self.count = 0
        self._begin = call_format.begin
        self._head = re.compile(call_format.head)
        self._tail = re.compile(call_format.tail)
        self._listed = call_format.listed
        self._held = ""
        self._json = _ObjectScanner()
        self._read: Callable[[Pieces], bool] = (
            self._read_text if self._begin else self._read_opening
        )

    def push(self, text: str) -> Pieces:
        """Return the pieces that are final after more text."""
        self._held += text
        found = Pieces()
        while self._read(found):
            continue
        return found

    def close(self) -> Pieces:
        """Return the rest after the last text. White space next to calls is no content."""
        is_text = self._read in (self._read_text, self._read_opening)
        rest = self._held if is_text else ""
        self._held = ""
        return Pieces("" if self.count and not rest.strip() else rest)

    def _read_text(self, found: Pieces) -> bool:
        """Release text up to a call; hold back a part of its tag, and white space before it."""
        if not self._begin:  # an answer that is no call
            found.content += self._held
            self._held = ""
            return False
        content, tag, rest = self._held.partition(self._begin)
        kept = content.rstrip() if tag else content[: _final(content, self._begin)]
        found.content += kept
        self._held = rest if tag else content[len(kept) :]
        if tag:
            self._read = self._read_head
        return bool(tag)

    def _read_opening(self, found: Pieces) -> bool:
        """Decide whether an answer is a call or text, by its beginning."""
        del found
        text = self._held.lstrip()
        if not text or PYTHON_TAG.startswith(text):
            return False
        text = text.removeprefix(PYTHON_TAG).lstrip()
        if self._head.match(text):
            self._held = text
            self._read = self._read_head
            return True
        if _may_become_call(text):
            return False
        self._read = self._read_text
        return True

    def _read_head(self, found: Pieces) -> bool:
        head = self._head.match(self._held)
        if head is None:
            return False
        found.calls.append(CallPiece(self.count, "", head[1]))
        self.count += 1
        self._held = self._held[head.end() :]
        self._json = _ObjectScanner()
        self._read = self._read_arguments
        return True

    def _read_arguments(self, found: Pieces) -> bool:
        size = self._json.push(self._held)
        found.add_arguments(self.count - 1, self._held[:size])
        self._held = self._held[size:]
        if self._json.ended:
            self._read = self._read_end
        return self._json.ended

    def _read_end(self, found: Pieces) -> bool:
        del found
        tail = self._tail.match(self._held)
        if tail is None:
            return False
        self._held = self._held[tail.end() :]
        self._read = self._read_head if self._listed else self._read_text
        return True


class _ObjectScanner:
    """Scanner for the end of a JSON object.

    Attributes:
        ended: whether the object has ended.
    """

    def __init__(self) -> None:
        self.ended = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def push(self, text: str) -> int:
        """Return the number of characters of a text that belong to the object."""
        for position, character in enumerate(text):
            if self._in_string:
                self._scan_string(character)
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.ended = True
                    return position + 1
        return len(text)

    def _scan_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False


def _may_become_call(text: str) -> bool:
    """Return whether more text may make a JSON object a call."""
    if len(text) <= len(_BEFORE_NAME):
        return _BEFORE_NAME.startswith(text)
    _, quote, rest = text.removeprefix(_BEFORE_NAME).partition('"')
    return text.startswith(_BEFORE_NAME) and (not quote or _BEHIND_NAME.startswith(quote + rest))


def _final(text: str, begin: str) -> int:
    """Return the number of characters that can neither begin a call nor stand before one."""
    for size in range(min(len(begin) - 1, len(text)), 0, -1):
        if begin.startswith(text[-size:]):
            return len(text[:-size].rstrip())
    return len(text.rstrip())
