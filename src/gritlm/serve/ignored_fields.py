"""Request fields without effect, named to the client in the header ``x-gritlm-ignored``.

Models of requests note these fields while they are validated; a route adds a field by
:func:`ignore`, if it turns out later that the field has no effect.
"""

from __future__ import annotations

from contextvars import ContextVar
from urllib.parse import quote

from starlette.datastructures import MutableHeaders

HEADER = "x-gritlm-ignored"
MOST_NAMES = 32  # in the header
MOST_CHARACTERS = 64  # of a name in the header
_MORE = "and-more"  # stands for the names that are left out


class IgnoredFields:
    """Names of the fields of one request that are ignored, each once, in order of appearance.

    Args:
        strict: whether unknown fields are refused instead.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self._names: dict[str, None] = {}
        self._has_more = False

    def add(self, name: str) -> None:
        """Note a field that is ignored, without its place in the request."""
        if name in self._names:
            return
        if len(self._names) < MOST_NAMES:
            self._names[name] = None
        else:
            self._has_more = True

    def write(self, headers: MutableHeaders) -> None:
        """Set the header, unless nothing is ignored."""
        if self._names:
            more = [_MORE] if self._has_more else []
            headers[HEADER] = ", ".join([*map(_header_name, self._names), *more])


CURRENT: ContextVar[IgnoredFields] = ContextVar("fields of the request that are ignored")


def ignore(name: str) -> None:
    """Note that a field of the current request is ignored."""
    CURRENT.get().add(name)


def _header_name(name: str) -> str:
    """Return a name for the header: letters, digits and ``-._~``, others as percent escapes."""
    shown = quote(name[: MOST_CHARACTERS + 1], safe="")
    return shown if len(shown) <= MOST_CHARACTERS else shown[:MOST_CHARACTERS] + "..."
