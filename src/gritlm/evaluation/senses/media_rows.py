"""Rows of tasks with images and sound; each file is decoded once before anything is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gritlm.errors import InputError
from gritlm.evaluation.answers import normalise
from gritlm.evaluation.embedding import rows
from gritlm.evaluation.embedding.rows import Column, TaskRow
from gritlm.evaluation.tasks.bad_rows import BadRows
from gritlm.evaluation.tasks.layouts import LAYOUTS, TEST
from gritlm.evaluation.tasks.task import Task
from gritlm.lm.media.files import MediaRules
from gritlm.lm.media.inputs import ImagePart, SoundPart
from gritlm.lm.media.media_prompts import decode


@dataclass(frozen=True)
class MediaRow:
    """An image or a sound with its text.

    Attributes:
        media: the file, as an input of ``encode``: ``{"image": path}`` or ``{"audio": path}``.
        text: its name or sentence; the question in a task of questions.
        answers: reference answers; empty in other tasks.
    """

    media: Mapping[str, Path]
    text: str
    answers: tuple[str, ...] = ()


def _is_answer(value: object) -> bool:
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) and normalise(text) for text in texts)


_ANSWER = Column("a text with a word in it, or a list of such texts", _is_answer)


def read(task: Task, *, limit: int | None, bad: BadRows, rules: MediaRules) -> list[MediaRow]:
    """Return the usable rows of a task.

    Args:
        task: a local task of type ImageText, AudioText or ImageQA.
        limit: number of usable rows; None for all.
        bad: collector of unusable rows: a missing column or file, a file outside of the folder of
            the task, an image or a sound that cannot be decoded.
        rules: limits on images and sound.

    Raises:
        InputError: if more than half of the rows are unusable; for the first unusable row, with
            ``file:line``, if rows may not be left out.
    """
    media, *others = LAYOUTS[task.type][TEST]
    columns = dict.fromkeys((media, *others), rows.TEXT)
    if "answer" in columns:
        columns["answer"] = _ANSWER
    check = _file_check(task.folder, media, rules)
    found = rows.read(task.folder / TEST, columns, bad, check, limit=limit)
    return [
        MediaRow({media: task.folder / row[media]}, row[others[0]], _answers(row)) for row in found
    ]


def _answers(row: TaskRow) -> tuple[str, ...]:
    found = row.values.get("answer", ())
    return (found,) if isinstance(found, str) else tuple(found)


def _file_check(folder: Path, column: str, rules: MediaRules) -> Callable[[TaskRow], None]:
    """Return a function that refuses a row whose image or sound cannot be read."""
    inside = folder.resolve()

    def check(row: TaskRow) -> None:
        path = folder / row[column]
        if not path.resolve().is_relative_to(inside):
            raise InputError(
                f"{row.place}: column {column!r} is {row[column]!r}; expected a file in the "
                "folder of the task"
            )
        name = f"{row.place}: {row[column]!r}"
        part = ImagePart(path, name) if column == "image" else SoundPart(path, name)
        decode(part, rules)

    return check
