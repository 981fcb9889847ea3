"""lm-eval, which only this folder knows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from gritlm.lm.hub.quiet import only_errors

_NOISY = ("lm_eval", "datasets", "huggingface_hub")


def version() -> str:
    import lm_eval

    return f"lm-eval {lm_eval.__version__}"


@cache
def manager() -> Any:
    """What knows lm-eval's own tasks. It reads thousands of files: made once."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


@contextmanager
def quiet() -> Iterator[None]:
    """Only errors are logged and no bars of lm-eval are shown; afterwards as it was."""
    from lm_eval.api import model, task

    bars = [(module, module.tqdm) for module in (model, task)]
    for module, bar in bars:
        module.tqdm = partial(bar, disable=True)
    try:
        with only_errors(*_NOISY):
            yield
    finally:
        for module, bar in bars:
            module.tqdm = bar


@contextmanager
def remembering(lm: Any, file: Path | None) -> Iterator[Any]:
    """``lm`` with lm-eval's own cache of answered requests; a file that is none is made anew."""
    if file is None:
        yield lm
        return
    from lm_eval.api.model import CacheHook, CachingLM

    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and not _is_database(file):
        file.unlink()
    cached = CachingLM(lm, str(file))
    try:
        yield cached
    finally:
        lm.set_cache_hook(CacheHook(None))
        cached.dbdict.close()


def _is_database(file: Path) -> bool:
    try:
        connection = sqlite3.connect(file)
        try:
            return bool(connection.execute("PRAGMA quick_check").fetchone() == ("ok",))
        finally:
            connection.close()
    except sqlite3.OperationalError:  # locked or out of reach: another run may be writing to it
        return True
    except sqlite3.DatabaseError:
        return False
