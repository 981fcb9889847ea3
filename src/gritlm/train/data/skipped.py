"""Rows that are skipped because they cannot be used: their number, and the first ones by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any, Protocol

FILE = "skipped.jsonl"
KEPT = 1000  # rows of a source that are listed
_LENGTH = 300


@dataclass
class SkippedRows:
    """The skipped rows of one source.

    Attributes:
        count: of all of them.
        first: (place, reason) of the first ones.
    """

    count: int = 0
    first: list[tuple[str, str]] = field(default_factory=list)

    def add(self, place: str, reason: str) -> None:
        """Count a row; a reason that begins with the place is listed without it."""
        self.count += 1
        if len(self.first) < KEPT:
            text = reason.removeprefix(f"{place}: ")
            self.first.append((place, shorten(text, _LENGTH, placeholder=" ...")))


class Source(Protocol):
    """What is reported of a source."""

    title: str
    skipped: SkippedRows


def lines(source: Source, *, most: int) -> Iterator[str]:
    """Yield the first skipped rows for a log, each with its place and reason."""
    for place, reason in source.skipped.first[:most]:
        yield f"skipped {place}: {reason}"
    if source.skipped.count > most:
        yield f"... and {source.skipped.count - most} more skipped rows of {source.title}"


def write(folder: Path, streams: Mapping[str, Sequence[Source]]) -> None:
    """Write the skipped rows to ``skipped.jsonl``: a line a row, then a count a source.

    Without skipped rows there is no file.
    """
    found = [
        entry
        for stream, sources in streams.items()
        for source in sources
        for entry in _entries(stream, source)
    ]
    path = folder / FILE
    path.unlink(missing_ok=True)
    if found:
        path.write_text("".join(json.dumps(entry) + "\n" for entry in found), encoding="utf-8")


def _entries(stream: str, source: Source) -> Iterator[dict[str, Any]]:
    about = {"stream": stream, "source": source.title}
    for place, reason in source.skipped.first:
        yield {**about, "row": place, "reason": reason}
    if source.skipped.count:
        yield {**about, "skipped": source.skipped.count}
