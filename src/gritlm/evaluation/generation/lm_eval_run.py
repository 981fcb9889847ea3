"""Measuring of generation tasks with lm-eval."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gritlm.errors import ModeError
from gritlm.evaluation import harnesses
from gritlm.evaluation.generation import library
from gritlm.evaluation.results import TaskResult
from gritlm.evaluation.tasks.bad_rows import BadRows
from gritlm.evaluation.tasks.task import Task

if TYPE_CHECKING:
    from gritlm.lm.gritlm import GritLM

# Hub tasks that need a chat format; local tasks set "metadata: chat: true".
CHATS = ("ifeval",)


@cache
def names() -> list[str]:
    """Return the names of all tasks, groups and tags of lm-eval.

    Raises:
        MissingExtraError: if lm-eval is not installed.
    """
    harnesses.require("generation")
    return list(library.manager().all_tasks)


def measure(
    model: GritLM,
    task: Task | str,
    *,
    limit: int | None = None,
    requests_cache: Path | None = None,
    progress: bool = False,
    chat: bool | None = None,
    skip_bad_rows: bool = True,
) -> TaskResult:
    """Measure a model on a task with lm-eval.

    Args:
        model: model with its LM head.
        task: a local task, or a name that lm-eval knows. A group counts as a single task.
        limit: number of rows to measure on; None for all.
        requests_cache: SQLite file that keeps the answers of this model to single requests, from
            which an interrupted run continues; None for no cache.
        progress: whether to show progress bars on stderr.
        chat: whether to use the chat format; None to follow the task.
        skip_bad_rows: leave out unusable rows of a local task; the result holds their number and
            the reasons.

    Raises:
        InputError: for an unknown name, or a folder that lm-eval cannot read as a task.
        DataUnreachableError: if the rows of a hub task cannot be downloaded.
        ModeError: if the model was loaded without its LM head.
        MissingExtraError: if lm-eval is not installed.
    """
    harnesses.require("generation")
    if not model.lm.has_head:
        raise ModeError(
            "this model was loaded with mode='embedding' and has no LM head to write with; "
            "load it with mode='unified'"
        )
    from gritlm.evaluation.generation import lm_eval_results, loading
    from gritlm.evaluation.generation.harness import GritLMHarness

    started = perf_counter()
    with library.quiet():
        bad = BadRows(skip=skip_bad_rows)
        tasks = loading.load(task, bad)
        harness = GritLMHarness(model, progress=progress)
        with library.remembering(harness, requests_cache) as lm:
            found = _evaluate(lm, tasks, limit, _needs_chat(tasks) if chat is None else chat)
    result = lm_eval_results.result(
        task if isinstance(task, str) else task.name,
        tasks,
        found,
        seconds=perf_counter() - started,
        harness=library.version(),
    )
    return result.without_rows(bad.count, bad.reasons)


def _needs_chat(tasks: list[Any]) -> bool:
    configured = [(task.get_config("metadata") or {}).get("chat") for task in tasks]
    known = [task.task_name in CHATS for task in tasks]
    return any(
        default if chat is None else chat for chat, default in zip(configured, known, strict=True)
    )


def _evaluate(lm: Any, tasks: list[Any], limit: int | None, chat: bool) -> Any:
    from lm_eval.evaluator import evaluate

    return evaluate(
        lm=lm,
        task_dict={"tasks": {task.task_name: task for task in tasks}},
        limit=limit,
        bootstrap_iters=0,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )
