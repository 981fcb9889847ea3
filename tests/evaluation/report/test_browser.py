"""The page in a browser: it fits, folds open, and asks nobody for anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gritlm.evaluation.outcome import Report
from gritlm.evaluation.report import write
from tests.browser import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def file(report: Report, tmp_path: Path) -> Path:
    return write.write_report(report, tmp_path)[2]


def test_both_halves_are_seen(browser, file: Path):
    page = browser.new_page()
    page.goto(file.as_uri())
    for title in ("Summary", "Embedding", "Generation", "Answering from passages", "Skipped"):
        assert page.get_by_role("heading", name=title, exact=False).first.is_visible()
    assert page.locator("svg.bar").first.is_visible()
    assert page.locator("svg.plane").is_visible()


def test_a_task_folds_open(browser, file: Path):
    page = browser.new_page()
    page.goto(file.as_uri())
    task = page.locator("details").first
    assert not task.get_by_text("CC BY <4.0>").is_visible()
    task.locator("summary").click()
    assert task.get_by_text("CC BY <4.0>").is_visible()


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_as_wide_as_the_screen(browser, file: Path, width):
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_dark_is_dark(browser, file: Path):
    grounds = []
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(file.as_uri())
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(246, 247, 249)", "rgb(18, 21, 26)"]


def test_nothing_is_fetched_and_nothing_complains(browser, file: Path):
    page = browser.new_page()
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    page.on("console", lambda message: seen.append(message.text))
    page.goto(file.as_uri())
    assert seen == [file.as_uri()]
