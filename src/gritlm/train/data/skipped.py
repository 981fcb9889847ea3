"""Report of skipped rows: their number, and place and reason of the first ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gritlm.errors import one_line

FILE = "skipped.jsonl"
KEPT = 1000  # rows of a source that are listed
_LENGTH = 300


@dataclass
class SkippedRows:
    """Skipped rows of one source.

    Attributes:
        count: number of skipped rows.
        first: (place, reason) of the first skipped rows.
    """

    count: int = 0
    first: list[tuple[str, str]] = field(default_factory=list)

    def add(self, place: str, reason: str) -> None:
        """Count a row; the place is removed from the start of the reason."""
        self.count += 1
        if len(self.first) < KEPT:
            text = reason.removeprefix(f"{place}: ")
            self.first.append((place, one_line(text, limit=_LENGTH)))


class SkippingSource(Protocol):
    """Source with its skipped rows."""

    title: str
    skipped: SkippedRows


def lines(source: SkippingSource, *, most: int) -> Iterator[str]:
    """Yield log lines with place and reason of the first ``most`` skipped rows."""
    for place, reason in source.skipped.first[:most]:
        yield f"skipped {place}: {reason}"
    if source.skipped.count > most:
        yield f"... and {source.skipped.count - most} more skipped rows of {source.title}"


def write(folder: Path, streams: Mapping[str, Sequence[SkippingSource]]) -> None:
    """Write ``skipped.jsonl``: a line for each skipped row, then the count of each source.

    Without skipped rows no file is written.

    Args:
        folder: existing folder of the run.
        streams: sources by stream.
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


def _entries(stream: str, source: SkippingSource) -> Iterator[dict[str, Any]]:
    about = {"stream": stream, "source": source.title}
    for place, reason in source.skipped.first:
        yield {**about, "row": place, "reason": reason}
    if source.skipped.count:
        yield {**about, "skipped": source.skipped.count}
