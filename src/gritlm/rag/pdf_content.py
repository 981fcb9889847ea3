"""The decompressed size of the content of a PDF's pages, found before their text is extracted."""

from __future__ import annotations

import re
from typing import Any

from pypdf import PageObject

SHOWS_TEXT = re.compile(rb"T[jJ]|['\"]")  # operators; content without them is not parsed
DRAWN = re.compile(rb"/([^\s/<>()\[\]{}%]+)\s+Do\b")  # another stream, by its name


class ContentSizes:
    """Bytes that are parsed for the text of pages, with the forms that they draw.

    A form is counted each time it is drawn, as it is parsed each time, and measured once.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}  # by id of a form
        self._forms: list[Any] = []  # kept, so that no other gets the id of one of them

    def of(self, page: PageObject) -> int:
        """Return the bytes of a page's content, with its forms."""
        content = page.get_contents()
        return 0 if content is None else self._parsed(content.get_data(), page)

    def _parsed(self, data: bytes, owner: Any) -> int:
        own = len(data) if SHOWS_TEXT.search(data) else 0
        found = DRAWN.findall(data)
        if not found:
            return own
        resources = _resolved(owner.get("/Resources")) or {}
        forms = _resolved(resources.get("/XObject")) or {}
        return own + sum(self._form(forms.get(f"/{name.decode('latin-1')}")) for name in found)

    def _form(self, given: Any) -> int:
        form = _resolved(given)
        if form is None or form.get("/Subtype") != "/Form":
            return 0
        if id(form) not in self._sizes:
            self._forms.append(form)
            self._sizes[id(form)] = 0  # a form that draws itself is not followed
            self._sizes[id(form)] = self._parsed(form.get_data(), form)
        return self._sizes[id(form)]


def _resolved(value: Any) -> Any:
    return None if value is None else value.get_object()
