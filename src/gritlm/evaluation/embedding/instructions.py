"""Instructions of embedding tasks for queries and documents, from ``instructions.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata

    from gritlm.evaluation.tasks.task import Task


@dataclass(frozen=True)
class TaskInstructions:
    """Instructions of a task.

    Attributes:
        query: instruction for queries, and for all texts of a task without queries.
        document: instruction for documents; empty for the prompt without instruction.
    """

    query: str
    document: str = ""

    def of(self, prompt_type: str | None) -> str:
        """Return the instruction for mteb's prompt type: ``query``, ``document`` or None."""
        return self.document if prompt_type == "document" else self.query


def of(metadata: TaskMetadata) -> TaskInstructions:
    """Return the instructions of a task of mteb.

    They come from our table by the name of the task, else from mteb, else from our table by the
    type of the task.
    """
    named = _table()["tasks"].get(metadata.name)
    of_type = _table()["types"].get(metadata.type, "")
    found = named or metadata.prompt or of_type
    if isinstance(found, str):
        return TaskInstructions(found)
    return TaskInstructions(found.get("query") or of_type, found.get("document", ""))


def of_local(task: Task, metadata: TaskMetadata) -> TaskInstructions:
    """Return the instructions of a local task; those in its ``task.toml`` take precedence."""
    known = of(metadata)
    return TaskInstructions(
        task.instruction or known.query, task.passage_instruction or known.document
    )


def text() -> str:
    """Return the text of ``instructions.toml``."""
    file = resources.files(__package__).joinpath("instructions.toml")
    return file.read_text(encoding="utf-8")


@cache
def _table() -> dict[str, dict[str, Any]]:
    return tomllib.loads(text())
