"""transformers without its own reports and progress bars, for a while."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging


@contextmanager
def quiet() -> Iterator[None]:
    """Only errors are logged and no bars are shown; afterwards as it was."""
    noisy = logging.getLogger("transformers")
    level, bars = noisy.level, transformers_logging.is_progress_bar_enabled()
    noisy.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        noisy.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
