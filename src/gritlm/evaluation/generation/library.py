"""Task manager, log level, progress bars and request cache of lm-eval."""

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
    """Return name and version of lm-eval."""
    import lm_eval

    return f"lm-eval {lm_eval.__version__}"


@cache
def manager() -> Any:
    """Return lm-eval's task manager; it reads thousands of files, so it is made once."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


@contextmanager
def quiet() -> Iterator[None]:
    """Hide lm-eval's progress bars and logs below the level error, for a ``with`` block."""
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
    """Wrap a model in lm-eval's cache of answered requests, for the duration of a ``with`` block.

    Args:
        lm: model of lm-eval.
        file: SQLite file of the cache, which replaces a file that is not a database; None for no
            cache.
    """
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
    except sqlite3.OperationalError:  # locked or unreachable: another run may be writing to it
        return True
    except sqlite3.DatabaseError:
        return False
