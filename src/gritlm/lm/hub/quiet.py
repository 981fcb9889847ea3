"""Context managers that silence log lines and progress bars of libraries.

transformers is imported inside the function: a process that only reads files starts without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Show errors of transformers only, and no progress bars, inside of the block."""
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with only_errors("transformers"):
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def only_errors(*names: str) -> Iterator[None]:
    """Log only errors of some loggers inside of the block.

    Args:
        *names: names of the loggers.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
