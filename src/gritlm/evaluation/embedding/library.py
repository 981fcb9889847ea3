"""Log level, warnings and progress bars of mteb."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from gritlm.lm.hub.quiet import only_errors

NOISY = ("mteb", "datasets", "huggingface_hub", "sentence_transformers")


@contextmanager
def quiet(*, bars: bool) -> Iterator[None]:
    """Silence warnings and logs below the level error, for the duration of a ``with`` block.

    mteb, and the classifiers and correlations that it calls, warn of every small or unusual task.
    The case that matters, a non-finite score, raises an error here.

    Args:
        bars: leave the progress bars of ``datasets`` on.
    """
    import datasets

    shown = datasets.is_progress_bar_enabled()
    if not bars:
        datasets.disable_progress_bars()
    try:
        with only_errors(*NOISY), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown:
            datasets.enable_progress_bars()
