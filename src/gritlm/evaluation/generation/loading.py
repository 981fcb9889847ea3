"""Loading of lm-eval tasks, from a local folder without a network or from the hub by name."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gritlm.errors import InputError, one_line
from gritlm.evaluation.generation import library, row_files
from gritlm.evaluation.harnesses import DataUnreachableError
from gritlm.evaluation.tasks.bad_rows import BadRows
from gritlm.evaluation.tasks.task import Task

FILE = "task.yaml"
SEED = 1234  # for drawing few-shot examples; lm-eval's own

# Packages whose errors mean that data cannot be downloaded.
_FETCHERS = {"datasets", "huggingface_hub", "httpx", "requests", "urllib3", "fsspec", "aiohttp"}


def load(task: Task | str, bad: BadRows | None = None) -> list[Any]:
    """Return a list with a task of lm-eval, or with the tasks of a group.

    Args:
        task: a local task, or the name of a task or group of lm-eval.
        bad: collector of unusable rows of a local task; if None, the first one raises.

    Raises:
        InputError: for an unknown name, or a folder that lm-eval cannot read as a task.
        DataUnreachableError: if the rows cannot be downloaded.
    """
    found = (
        _by_name(task)
        if isinstance(task, str)
        else [_local(task, BadRows() if bad is None else bad)]
    )
    for one in found:
        if one.get_config("num_fewshot") is None:
            one.set_config(key="num_fewshot", value=0)
        one.set_fewshot_seed(seed=SEED)
    return found


def _by_name(name: str) -> list[Any]:
    manager = library.manager()
    if name not in manager.task_index:
        near = get_close_matches(name, manager.all_tasks, n=3)
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "nothing is near it"
        raise InputError(f"lm-eval has no task {name!r}; {hint}")
    try:
        return list(manager.load([name])["tasks"].values())
    except Exception as error:
        if not _is_unreachable(error):
            raise
        raise DataUnreachableError(name, error) from error


def _is_unreachable(error: Exception) -> bool:
    kinds = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(kinds & _FETCHERS)


def _local(task: Task, bad: BadRows) -> Any:
    from lm_eval.api.task import ConfigurableTask

    path = task.folder / FILE
    config = _config(path)
    files = _files(config, path)
    data = row_files.splits(files, bad)
    for key in ("tag", "group", "dataset_path", "dataset_kwargs"):
        config.pop(key, None)
    config |= {"task": task.name, "custom_dataset": lambda **_: data}
    try:
        return ConfigurableTask(config=config)
    except Exception as error:  # lm-eval runs the task's own code on the first row
        reason = one_line(error, limit=300)
        raise InputError(
            f"{path}: lm-eval cannot make this task of the first row of "
            f"{', '.join(map(str, files.values()))}: {type(error).__name__}: {reason}"
        ) from error


def _config(path: Path) -> dict[str, Any]:
    """Return the content of ``task.yaml`` with its functions, whose code is read each time."""
    from lm_eval.tasks._yaml_loader import load_yaml

    inside = f"{path.parent.resolve()}/"
    for module in [name for name in sys.modules if name.startswith(inside)]:
        del sys.modules[module]
    try:
        return dict(load_yaml(path))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file: {error.filename}") from None
    except Exception as error:  # of YAML, or of the code that it names
        raise InputError(f"{path}: cannot be read as a task of lm-eval: {error}") from error


def _files(config: dict[str, Any], path: Path) -> dict[str, Path]:
    """Return the file of each split."""
    named = (config.get("dataset_kwargs") or {}).get("data_files")
    if config.get("dataset_path") != "json" or not isinstance(named, dict):
        raise InputError(
            f"{path}: dataset_path is {config.get('dataset_path')!r} with data_files {named!r}; "
            "expected dataset_path: json, and dataset_kwargs with data_files that name a file for "
            "each split, e.g. test: test.jsonl"
        )
    return {str(split): path.parent / str(file) for split, file in named.items()}
