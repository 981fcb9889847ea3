"""What is told before the texts of a task."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import get_args

import mteb
from mteb.abstasks.task_metadata import TaskType
from mteb.get_tasks import TASK_LIST

from gritlm.evaluation.embedding import instructions, mteb_run
from gritlm.evaluation.embedding.instructions import TaskInstructions
from tests.evaluation.embedding import folders

TABLE = tomllib.loads(
    resources.files("gritlm.evaluation.embedding").joinpath("instructions.toml").read_text("utf-8")
)


def of(name: str) -> TaskInstructions:
    return instructions.of(mteb.get_task(name).metadata)


def test_the_table_comes_first_then_mteb_then_the_type():
    assert of("BIOSSES") == TaskInstructions(TABLE["tasks"]["BIOSSES"])
    assert of("NQ").query == mteb.get_task("NQ").metadata.prompt["query"]
    assert of("NQ").document == ""
    assert of("STS12") == TaskInstructions(TABLE["types"]["STS"])


def test_a_task_of_two_equal_sides_tells_both_the_same():
    assert of("QuoraRetrieval").query == of("QuoraRetrieval").document != ""


def test_a_local_task_says_it_itself():
    metadata = mteb.get_task("NQ").metadata
    said = folders.task(None, "Retrieval", instruction="Ask", passage_instruction="Answer")
    assert instructions.of_local(said, metadata) == TaskInstructions("Ask", "Answer")
    assert instructions.of_local(folders.task(None, "Retrieval"), metadata) == of("NQ")


def test_every_name_in_the_table_is_one_of_mteb():
    assert set(TABLE["tasks"]) <= set(mteb_run.names())
    assert set(TABLE["types"]) <= set(get_args(TaskType))


def test_every_task_of_text_is_told_something():
    text = [task.metadata for task in TASK_LIST if task.metadata.modalities == ["text"]]
    assert all(instructions.of(metadata).query for metadata in text)
