"""The page in Chromium: a browser, a server with some documents, and one that wants a key."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.browser import chromium
from tests.serve.visiting import KEY, Visit, serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a store in which there are some documents."""
    with serving(tmp_path_factory.mktemp("page"), store=True) as found:
        yield found


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that wants a key and has no store."""
    with serving(tmp_path_factory.mktemp("locked"), keys=(KEY,)) as found:
        yield found


@pytest.fixture
def visit(browser: Any, address: str, tmp_path: Path) -> Iterator[Callable[..., Visit]]:
    """Opens the page; at the end nobody may have complained, and no other host been asked."""
    visits: list[Visit] = []
    shots = Path(os.environ.get("GRITLM_SCREENSHOTS", tmp_path))

    def open_page(tab: str = "chat", *, at: str = address, **how: Any) -> Visit:
        visits.append(Visit(browser, at, tab, shots, **how))
        return visits[-1]

    yield open_page
    for each in visits:
        each.close()
        assert each.complaints == []
        assert each.hosts == {urlsplit(each.address).netloc}
