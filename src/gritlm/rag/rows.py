"""Rows with names and values, handed in or read from files, to documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from blake3 import blake3

from gritlm.errors import InputError
from gritlm.rag.document_ids import check_document_id
from gritlm.rag.metadata import encodable, normalise_metadata
from gritlm.rag.passages import ID_NAMES, TEXT_NAMES, Document

OWN = ("title", "metadata", "markdown")


def document(
    row: Mapping[str, Any], *, prefix: str = "", text_field: str | None = None
) -> Document:
    """Return ``{id?, title?, text, markdown?, metadata?}`` as a document.

    Its id may be named ``_id``; its text ``page_content``, ``contents`` or ``content``. All else
    it holds is metadata, too.

    Args:
        prefix: stands in front of its id.
        text_field: name of its text; None for the first of ``TEXT_NAMES`` that it has.

    Raises:
        InputError: for a row without text, or with values of other types.
    """
    text_name = _text_name(row) if text_field is None else text_field
    text = _text(row, text_name)
    if not text.strip():
        raise without_text(row, text_field)
    title, given = _text(row, "title"), row.get("metadata")
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"'metadata' is {type(given).__name__}; expected names and values")
    id_name = next((name for name in ID_NAMES if row.get(name) is not None), "id")
    own = {*OWN, id_name, text_name}
    if row.get("id") is None:
        own |= {*ID_NAMES}
    others = {name: value for name, value in row.items() if name not in own}
    metadata = normalise_metadata(others | dict(given or {}))
    name = _id(row.get(id_name))
    if name is None:
        about = json.dumps([title, text, metadata], sort_keys=True)
        name = blake3(about.encode()).hexdigest()[:32]
    marked = row.get("markdown", False)
    if not isinstance(marked, bool):
        raise InputError(f"'markdown' is {marked!r}; expected true or false")
    return Document(check_document_id(f"{prefix}{name}"), text, title, metadata, markdown=marked)


def has_text(row: Mapping[str, Any], text_field: str | None) -> bool:
    """Tell whether a row has a value under a name of texts; cheap, where millions have none."""
    names = TEXT_NAMES if text_field is None else (text_field,)
    return any(row.get(name) not in (None, "") for name in names)


def without_text(row: Mapping[str, Any], text_field: str | None) -> InputError:
    """Return the error of a row whose text is missing."""
    name = _text_name(row) if text_field is None else text_field
    return InputError(f"empty: {name!r} is missing or holds only white space{_has(row)}")


def _text_name(row: Mapping[str, Any]) -> str:
    return next((name for name in TEXT_NAMES if row.get(name) not in (None, "")), TEXT_NAMES[0])


def _has(row: Mapping[str, Any]) -> str:
    """Return the names that a row has, for a message about the one that it lacks."""
    names = [repr(str(name)[:40]) for name in list(row)[:8]]
    if not names or any(name in row for name in TEXT_NAMES):
        return ""
    return f"; it has {', '.join(names)}: name the one with the text as text_field"


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{name!r} is {type(value).__name__}; expected text")
    if not encodable(value):
        raise InputError(f"{name!r} holds half a surrogate pair; expected whole Unicode text")
    return value


def _id(value: object) -> str | None:
    """Return an id as text; a whole number that was written ``5.0`` is ``5``."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"'id' is {str(value)[:80]}; expected text or a whole number")
    return check_document_id(str(value))
