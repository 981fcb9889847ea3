"""Chromium, where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from docs.screenshots import visitor


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    pytest.importorskip("playwright.sync_api")
    with ExitStack() as stack:
        try:
            started = stack.enter_context(visitor.chromium())
        except visitor.BrowserError as missing:
            pytest.skip(str(missing))
        yield started
