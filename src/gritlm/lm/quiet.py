"""Libraries without their own reports and progress bars, for a while.

transformers is imported inside the function: a process that reads files starts without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Only errors are logged and no bars are shown; afterwards as it was."""
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
    """Of these loggers; afterwards they log what they logged before."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
