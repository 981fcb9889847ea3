"""The page shows the images of passages and plays their sounds, in Chromium."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gritlm.rag.engine import RagEngine
from gritlm.rag.ingest.ingest import ChunkingOptions
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from gritlm.serve.stores import StoreAt
from tests.browser import chromium
from tests.pdfs import lines_pdf
from tests.serve.conftest import served
from tests.serve.media.conftest import coded, png, wav
from tests.serve.visiting import KEY, Visit

FILES = {
    "smolvlm": {"report.pdf": lines_pdf(["Cats sleep.", "Dogs walk."]), "cat.png": png(1)},
    "qwen2_audio": {"call.wav": wav(1, 2.0)},
}
READERS = {"smolvlm": "pages", "qwen2_audio": "standard"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Any, models, tmp_path: Path) -> Iterator[Callable[[str, str], Visit]]:
    """Opens a tab of the page of a server that wants a key and has documents of a family."""
    shots = Path(os.environ.get("GRITLM_SCREENSHOTS", tmp_path))
    with ExitStack() as stack:

        def open_page(family: str, tab: str) -> Visit:
            model, _ = models(family)
            cutting = ChunkingOptions(max_tokens=64, seconds=0.8)
            RagEngine.open(tmp_path / "store", model, cutting=cutting).close()
            settings = ServerConfig(
                port=0, names=("tiny",), api_keys=(KEY,), reader=READERS[family]
            )
            place = StoreAt(tmp_path / "store")
            server = stack.enter_context(served(model, settings, Limits(max_num_seqs=2), place))
            files = [{"name": n, "data": coded(data)} for n, data in FILES[family].items()]
            added = server.http.post("/v1/rag/documents", json={"files": files}, timeout=120)
            added.raise_for_status()
            here = Visit(browser, server.url, tab, shots, may_fail=True)
            stack.callback(here.close)
            here.page.evaluate(f"sessionStorage.setItem('gritlm.key', '{KEY}')")
            here.page.reload()
            here.page.locator("#server-model", has_text="tiny").wait_for()
            return here

        yield open_page


def search(page: Any) -> None:
    page.locator("#search-query").fill("What is it?")
    page.locator("#search-query").press("Enter")


# Keeps the object URLs that are not revoked in window.kept.
KEPT = """() => {
  window.kept = new Set();
  const make = URL.createObjectURL;
  const revoke = URL.revokeObjectURL;
  URL.createObjectURL = (file) => { const url = make.call(URL, file); kept.add(url); return url; };
  URL.revokeObjectURL = (url) => { kept.delete(url); revoke.call(URL, url); };
}"""


def test_a_search_shows_the_images_of_its_passages(visit):
    here = visit("smolvlm", "search")
    page = here.page
    page.evaluate(KEPT)
    search(page)
    page.locator(".hit").nth(2).wait_for()
    for number in range(3):
        image = page.locator(".hit").nth(number).locator(".media img")
        image.scroll_into_view_if_needed()
        image.wait_for()
        page.wait_for_function("image => image.naturalWidth > 0", arg=image.element_handle())
    names = page.locator(".hit .media img").evaluate_all("all => all.map(image => image.alt)")
    assert sorted(names) == ["cat.png", "report.pdf, page 1", "report.pdf, page 2"]
    widths = page.locator(".hit .media img").evaluate_all("all => all.map(i => i.naturalWidth)")
    assert widths[names.index("cat.png")] == 60
    places = page.locator(".hit .place").all_text_contents()
    assert sorted(places) == ["cat.png", "report.pdf, page 1", "report.pdf, page 2"]
    page.wait_for_function("() => kept.size === 0")
    here.shot("search-pages")
    assert here.complaints == []


def test_an_answer_shows_the_page_that_it_comes_from(visit):
    here = visit("smolvlm", "ask")
    page = here.page
    page.locator("#ask-question").fill("What is it?")
    page.locator("#ask-question").press("Enter")
    page.locator("#ask-status", has_text="Answered twice").wait_for()
    used = page.locator("#ask-sources .used")
    used.first.locator("details[open] .media").scroll_into_view_if_needed()
    image = used.first.locator("details[open] .media img")
    image.wait_for()
    page.wait_for_function("image => image.naturalWidth > 0", arg=image.element_handle())
    assert used.first.locator(".place").inner_text() in (
        "cat.png",
        "report.pdf, page 1",
        "report.pdf, page 2",
    )
    assert page.locator("#ask-quote").is_hidden()
    here.shot("ask-page")
    assert here.complaints == []


def test_a_sound_is_played_at_its_place(visit):
    here = visit("qwen2_audio", "search")
    page = here.page
    page.evaluate(KEPT)
    search(page)
    page.locator(".hit").nth(2).wait_for()
    first = page.locator(".hit").first
    audio = first.locator("audio")
    audio.wait_for()
    handle = audio.element_handle()
    page.wait_for_function("audio => audio.readyState > 0", arg=handle)
    assert first.locator(".place").inner_text().startswith("call.wav, 0:0")
    length = audio.evaluate("audio => audio.duration")
    assert 0.3 < length < 0.9
    audio.evaluate("audio => { audio.muted = true; return audio.play(); }")
    page.wait_for_function("audio => audio.currentTime > 0", arg=handle)
    assert page.evaluate("kept.has(document.querySelector('.hit audio').src)")
    before = audio.get_attribute("src")
    page.evaluate("document.querySelector('.hit').id = 'replaced'")
    search(page)
    page.locator("#replaced").wait_for(state="detached")
    first.locator("audio").wait_for()
    assert first.locator("audio").get_attribute("src") != before
    page.wait_for_function("url => !kept.has(url)", arg=before)
    assert page.evaluate("[...document.querySelectorAll('audio')].every(a => kept.has(a.src))")
    assert here.complaints == []
