"""The decompressed size of the content of a PDF's pages, found before their text is extracted."""

from __future__ import annotations

import re
from typing import Any

from pypdf import PageObject
from pypdf.generic import DictionaryObject, NullObject, StreamObject

SHOWS_TEXT = re.compile(rb"T[jJ]|['\"]")  # operators; content without them is not parsed
MOST_PARENTS = 100  # of a page in the tree of pages
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
        found = DRAWN.findall(data)
        if not found:
            return len(data) if SHOWS_TEXT.search(data) else 0
        forms = _entry(_entry(owner, "/Resources"), "/XObject")
        drawn = sum(self._form(_entry(forms, f"/{name.decode('latin-1')}")) for name in found)
        return len(data) + drawn

    def _form(self, form: Any) -> int:
        if not isinstance(form, StreamObject) or form.get("/Subtype") != "/Form":
            return 0
        if id(form) not in self._sizes:
            self._forms.append(form)
            self._sizes[id(form)] = 0  # a form that draws itself is not followed
            self._sizes[id(form)] = self._parsed(_data(form), form)
        return self._sizes[id(form)]


def _entry(owner: Any, name: str) -> Any:
    """Return an entry of a dictionary, that of a page also from the pages around it."""
    for _ in range(MOST_PARENTS):
        if not isinstance(owner, DictionaryObject):
            return None
        if name in owner:
            return owner[name]
        owner = owner.get("/Parent", NullObject()).get_object()
    return None


def _data(form: StreamObject) -> bytes:
    """Return the decompressed content of a form; nothing of a broken one, which is left out."""
    try:
        return form.get_data()
    except MemoryError:
        raise
    except Exception:  # a broken stream makes its filters fail in any way there is
        return b""
