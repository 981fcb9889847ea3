"""LanceDB's exceptions, translated into the errors of this package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from gritlm.errors import GritLMError, InputError, did_you_mean
from gritlm.rag.index.filters import Where
from gritlm.rag.index.passage_rows import SHOWN
from gritlm.rag.index.passage_table import FREE_SPACE, FULL, IndexFailedError, IndexFullError
from gritlm.rag.workspace_marker import is_store

ORIGIN = re.compile(r",? ?/\S+\.rs:\d+:\d+")  # source location in a message of the library
UNKNOWN = re.compile(r"No field named [`'\"]?([^`'\".\s]+)")
FILES = re.compile(r"\(IO\)|Not found: /|appear to be a Lance file|permission denied", re.I)
REFUSED = re.compile(r"permission denied|read-only file system", re.I)


@contextmanager
def lance_errors(uri: str) -> Iterator[None]:
    """Translate LanceDB's exceptions, as :func:`raise_translated` does.

    Args:
        uri: folder or address of the index.
    """
    try:
        yield
    except Exception as error:
        raise_translated(error, uri)


def raise_translated(error: Exception, uri: str, where: Where | None = None) -> NoReturn:
    """Raise an error of this package for an exception of LanceDB; any other one is raised as it is.

    Args:
        error: the exception.
        uri: folder or address of the index.
        where: filter of the search that failed, reported as the cause of other failures.

    Raises:
        IndexFullError: if the disk is full.
        IndexFailedError: if the table cannot be read or written.
        InputError: if the filter cannot be used.
    """
    if isinstance(error, GritLMError) or not _is_lances(error):
        raise error
    reason = ORIGIN.sub("", str(error)).strip()
    if where is None or _is_of_files(error, reason):
        problem = IndexFullError if FULL.search(reason) else IndexFailedError
        raise problem(f"the index {uri} failed: {reason}; {advice(uri, reason)}") from error
    field = UNKNOWN.search(reason)
    if field:
        reason = f"there is no column {field[1]!r}{did_you_mean(field[1], SHOWN)}"
    raise InputError(f"filter {where!r} cannot be used: {reason}") from error


def advice(uri: str, reason: str = "") -> str:
    """Return advice for a failure, as the last part of a message."""
    if FULL.search(reason):
        return FREE_SPACE
    if REFUSED.search(reason):
        return "allow this user to read and write there"
    first = "see that it can be reached; " if "://" in uri else ""
    return f"{first}if its files are damaged, {remedy(uri)}"


def remedy(uri: str) -> str:
    """Return the command that rebuilds a damaged table."""
    return f"run: gritlm store rebuild {_store_of(uri)}"


def _is_lances(error: Exception) -> bool:
    """Return whether LanceDB raises such errors; no module exports the type of its panics."""
    return isinstance(error, ValueError | RuntimeError | OSError) or _is_panic(error)


def _is_of_files(error: Exception, reason: str) -> bool:
    return bool(FILES.search(reason)) or isinstance(error, OSError) or _is_panic(error)


def _is_panic(error: Exception) -> bool:
    return type(error).__name__ == "RustPanic"


def _store_of(uri: str) -> str:
    """Return the workspace of an index, or the placeholder STORE if it is unknown."""
    folder = Path(uri).parent
    return "STORE" if "://" in uri or not is_store(folder) else str(folder)
