"""Generation tasks on one model: :func:`measure`."""

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

# Tasks of the hub that are nothing without a chat format; local ones say "metadata: chat: true".
CHATS = ("ifeval",)


@cache
def names() -> list[str]:
    """The names of all tasks, groups and tags that lm-eval knows.

    Raises:
        MissingExtraError: when lm-eval is not installed.
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
    """One task, computed by lm-eval.

    Args:
        model: with its LM head.
        task: a local one, or a name that lm-eval knows (a group is measured as one task).
        limit: first rows of it; None for all.
        requests_cache: file (SQLite) in which the answers to single requests are kept, for this
            model; a run that was interrupted goes on from there.
        progress: show bars on stderr.
        chat: ask in the chat format; None for what the task says.
        skip_bad_rows: leave out rows of a local task that cannot be used; the result counts and
            names them.

    Raises:
        InputError: for an unknown name, or a folder that is no task.
        DataUnreachableError: for a task of the hub whose rows cannot be fetched.
        ModeError: for a model without LM head.
        MissingExtraError: when lm-eval is not installed.
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
            found = _evaluate(lm, tasks, limit, _chats(tasks) if chat is None else chat)
    made = lm_eval_results.result(
        task if isinstance(task, str) else task.name,
        tasks,
        found,
        seconds=perf_counter() - started,
        harness=library.version(),
    )
    return made.without_rows(bad.count, bad.reasons)


def _chats(tasks: list[Any]) -> bool:
    said = [(task.get_config("metadata") or {}).get("chat") for task in tasks]
    known = [task.task_name in CHATS for task in tasks]
    return any(known if one is None else one for one, known in zip(said, known, strict=True))


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
