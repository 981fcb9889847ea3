"""Questions of a local task, with their answers and documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from reprlib import repr as short
from typing import Any

from gritlm import jsonl
from gritlm.errors import InputError
from gritlm.evaluation.answers import normalise
from gritlm.evaluation.tasks.bad_rows import BadRows
from gritlm.lm.tokens import document_texts, require_text

FILE = "test.jsonl"
_EXPECTED = "expected one question a line"


@dataclass(frozen=True)
class Question:
    """A question with its reference answers and documents.

    Attributes:
        text: the question.
        answers: reference answers.
        gold: documents that hold the answer.
        documents: all documents, the gold ones included, in reading order.
        place: ``file:line``.
    """

    text: str
    answers: tuple[str, ...]
    gold: tuple[str, ...]
    documents: tuple[str, ...]
    place: str


def load(folder: Path, *, limit: int | None = None, bad: BadRows | None = None) -> list[Question]:
    """Return the questions in the folder of a task.

    Args:
        folder: folder of the task.
        limit: number of usable questions to return; None for all.
        bad: collector of unusable rows; if None, the first one raises.

    Raises:
        InputError: if the file is missing, empty or has mostly unusable rows; for the first
            unusable row, with ``file:line``, if rows may not be left out.
    """
    path = folder / FILE
    lines = jsonl.text_lines(path, missing=f" is missing; {_EXPECTED}")
    bad = BadRows() if bad is None else bad
    found = bad.keep_usable(lines, lambda line: _question(line[1], line[0]), path=path, limit=limit)
    if not found:
        raise InputError(f"{path} is empty; {_EXPECTED}")
    return found


def in_reading_order(question: str, texts: Sequence[str]) -> tuple[str, ...]:
    """Return the distinct texts in a pseudo-random order that depends only on the question.

    The order is the same on every machine and for every model. Over many questions, the gold
    document is at each position equally often.
    """
    return tuple(sorted(dict.fromkeys(texts), key=lambda text: _sort_key(question, text)))


def _sort_key(question: str, text: str) -> bytes:
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
        found = document_texts(_items(row["documents"], f"{place}: documents"))
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
    row = jsonl.record(line, place)
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
