"""Rows of a local task -> questions with their documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from reprlib import repr as short
from typing import Any

from gritlm.errors import InputError
from gritlm.evaluation.answers import normalise
from gritlm.evaluation.tasks import jsonl
from gritlm.evaluation.tasks.bad_rows import BadRows
from gritlm.lm.inputs import documents, require_text

FILE = "test.jsonl"
_EXPECTED = "expected one question a line"


@dataclass(frozen=True)
class Question:
    """A question, its right answers, and documents to read.

    Attributes:
        gold: the documents that hold the answer.
        documents: all of them, the gold ones too, in the order in which they are read.
        place: ``file:line``.
    """

    text: str
    answers: tuple[str, ...]
    gold: tuple[str, ...]
    documents: tuple[str, ...]
    place: str


def load(folder: Path, *, limit: int | None = None, bad: BadRows | None = None) -> list[Question]:
    """Return the questions of a task's folder, at most the first ``limit`` that can be used.

    Args:
        bad: receives the rows that cannot be used; None: the first one raises.

    Raises:
        InputError: for a file that is missing, empty or mostly bad rows; for the first bad row,
            with its place, when none may be left out.
    """
    path = folder / FILE
    lines = jsonl.lines(path, missing=f" is missing; {_EXPECTED}")
    bad = BadRows() if bad is None else bad
    found = bad.keep_usable(lines, lambda line: _question(line[1], line[0]), path=path, limit=limit)
    if not found:
        raise InputError(f"{path} is empty; {_EXPECTED}")
    return found


def in_reading_order(question: str, texts: Sequence[str]) -> tuple[str, ...]:
    """The texts in an order drawn from the question: the same on every machine, for every model.

    The place of a gold document is so spread evenly over all places. Repeated texts count once.
    """
    return tuple(sorted(dict.fromkeys(texts), key=lambda text: _drawn(question, text)))


def _drawn(question: str, text: str) -> bytes:
    return blake2b(f"{question}\0{text}".encode(), digest_size=16).digest()


def _question(line: str, place: str) -> Question:
    row = _object(line, place)
    question = _text(row["question"], f"{place}: question")
    answers = tuple(
        _text(answer, f"{place}: answers[{index}]")
        for index, answer in enumerate(_items(row["answers"], f"{place}: answers"))
    )
    if not any(map(normalise, answers)):
        raise InputError(f"{place}: answers is {short(answers)}; expected one with a word in it")
    try:
        found = documents(_items(row["documents"], f"{place}: documents"))
    except InputError as error:
        raise InputError(f"{place}: {str(error).removeprefix(f'{place}: ')}") from None
    texts = [_text(text, f"{place}: documents[{index}]") for index, text in enumerate(found)]
    gold = texts[: _count(row.get("gold", 1), len(texts), place)]
    return Question(
        text=question,
        answers=answers,
        gold=in_reading_order(question, gold),
        documents=in_reading_order(question, texts),
        place=place,
    )


def _object(line: str, place: str) -> dict[str, Any]:
    row = jsonl.parsed(line, place, expected="one JSON object a line")
    for column in ("question", "answers", "documents"):
        if column not in row:
            known = ", ".join(row) or "nothing"
            raise InputError(f"{place}: no {column!r}; it has {known}")
    return row


def _items(value: object, name: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{name} is {short(value)}; expected a list with at least one item")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name} is {short(value)}; expected a text")
    require_text(value, name)
    return value


def _count(value: object, most: int, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InputError(
            f"{place}: gold is {short(value)}; expected how many of the first documents hold the "
            f"answer, 1 to {most}"
        )
    return value
