"""Which instruction a task gives to each side, from ``instructions.toml``."""

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
    """What is told before a text.

    Attributes:
        query: before queries, and before every text of a task that has no sides.
        document: before documents; empty for the header without instruction.
    """

    query: str
    document: str = ""

    def of(self, prompt_type: str | None) -> str:
        """The instruction of a side as mteb names it: ``query``, ``document`` or None."""
        return self.document if prompt_type == "document" else self.query


def of(metadata: TaskMetadata) -> TaskInstructions:
    """By name of the task, else what mteb says about it, else by its type."""
    named = _table()["tasks"].get(metadata.name)
    of_type = _table()["types"].get(metadata.type, "")
    said = named or metadata.prompt or of_type
    if isinstance(said, str):
        return TaskInstructions(said)
    return TaskInstructions(said.get("query") or of_type, said.get("document", ""))


def of_local(task: Task, metadata: TaskMetadata) -> TaskInstructions:
    """What the folder of a task says comes first."""
    known = of(metadata)
    return TaskInstructions(
        task.instruction or known.query, task.passage_instruction or known.document
    )


def text() -> str:
    """``instructions.toml`` as it is written."""
    file = resources.files(__package__).joinpath("instructions.toml")
    return file.read_text(encoding="utf-8")


@cache
def _table() -> dict[str, dict[str, Any]]:
    return tomllib.loads(text())
