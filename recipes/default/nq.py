"""Natural Questions with gold passages: training rows, separate from the evaluated ones."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from texts import Overlap, fingerprint, letters, one_line

TRAINED = 1355  # rows to train on; the rows after them are for evaluation


@dataclass(frozen=True)
class Entry:
    """Question with answers and passages ``(title, text)``, the gold one first."""

    question: str
    answers: tuple[str, ...]
    passages: tuple[tuple[str, str], ...]


def all_rows(folder: Path) -> list[Entry]:
    with gzip.open(folder / "qa_data" / "nq-open-oracle.jsonl.gz", "rt", encoding="utf-8") as file:
        return [_entry(json.loads(line)) for line in file]


def training_rows(folder: Path) -> list[Entry]:
    """Return the training rows whose passage does not overlap a gold passage of evaluation."""
    entries = all_rows(folder)
    measured = [letters(entry.passages[0][1]) for entry in entries[TRAINED:]]
    beginnings = {fingerprint(entry.passages[0][1]) for entry in entries[TRAINED:]}
    kept = []
    for entry in entries[:TRAINED]:
        gold = entry.passages[0][1]
        own = letters(gold)
        beginning = fingerprint(gold)
        inside = any(beginning in other for other in measured)
        if not inside and not any(other in own for other in beginnings):
            kept.append(entry)
    return kept


def with_distractors(entries: Sequence[Entry], *, count: int) -> Iterator[Entry]:
    """Yield entries with distractors: passages of other entries with similar words, no answer."""
    passages = sorted({entry.passages[0] for entry in entries})
    overlap = Overlap([f"{title} {text}" for title, text in passages])
    for entry in entries:
        gold = entry.passages[0]
        near = overlap.nearest(entry.question, count=20 * count)
        others = [passages[i] for i in near if passages[i][0] != gold[0]]
        wrong = [p for p in others if not any(a.lower() in p[1].lower() for a in entry.answers)]
        yield Entry(entry.question, entry.answers, (gold, *wrong[:count]))


def _entry(row: dict[str, Any]) -> Entry:
    passage = row["ctxs"][0]
    title = one_line(passage["title"])
    text = one_line(passage["text"])
    return Entry(one_line(row["question"]), tuple(row["answers"]), ((title, text),))
