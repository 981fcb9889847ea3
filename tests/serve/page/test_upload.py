"""A stranger uploads a PDF, watches it being indexed, asks, and sees the page that is cited."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pdfs import lines_pdf
from tests.serve.visiting import serving

WATCH = """() => {
  window.seen = [];
  const adding = document.getElementById("adding");
  new MutationObserver(() => {
    const [text, count] = ["adding-text", "adding-count"].map((id) => document.getElementById(id));
    seen.push([text.textContent, count.textContent, document.getElementById("adding-bar").value]);
  }).observe(adding, { subtree: true, childList: true, attributes: true });
}"""


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose store is new."""
    with serving(tmp_path_factory.mktemp("upload"), more_stores=("new",)) as found:
        yield found


def pdf(path: Path, pages: int) -> Path:
    words = [f"Chapter {n}\n" + f"The lamp of room {n} is bright. \n" * 60 for n in range(pages)]
    path.write_bytes(lines_pdf(words))
    return path


def test_a_pdf_is_sent_and_indexed_with_progress_and_its_page_is_cited(visit, empty, tmp_path):
    here = visit("ask", at=empty)
    page = here.page
    page.get_by_role("link", name="Add documents").click()
    page.get_by_text("Add documents, then search").wait_for()
    page.evaluate(WATCH)
    page.locator("#files").set_input_files(pdf(tmp_path / "house.pdf", 40))
    status = page.locator("#documents-status")
    status.get_by_text("Indexed 1 document").wait_for()
    shown = status.inner_text()
    count = re.fullmatch(r"Indexed 1 document: (\d+) passages, [\d.]+ m?s", shown)
    assert count
    assert int(count[1]) > 40
    here.shot("upload")
    seen = page.evaluate("seen")
    assert {words.split()[0] for words, _, _ in seen if words} >= {"Sending", "Indexing"}
    indexed = [(int(number.split()[0]), bar) for words, number, bar in seen if "passage" in number]
    assert indexed == sorted(indexed)
    assert any(0 < bar <= 1 for _, bar in indexed)
    page.get_by_role("link", name="Ask about your documents").click()
    page.locator("#ask-question").fill("The lamp of room 17")
    page.locator("#ask-send").click()
    page.get_by_text("Answered twice").wait_for()
    here.shot("upload-asked")
    used = page.locator("#ask-sources .source.used").first
    cited = re.search(r"house\.pdf, page (\d+)", used.locator(".name").inner_text())
    assert cited
    assert f"room {int(cited[1]) - 1} " in used.locator(".passage").inner_text()


def held_upload(page: Any, file: Path) -> list[Any]:
    """Begin an upload that the server never answers, and return the list of its requests."""
    page.locator("#server-model", has_text="tiny").wait_for()
    held: list[Any] = []
    page.route("**/v1/rag/documents", lambda route: held.append(route))
    page.locator("#files").set_input_files(file)
    page.locator("#adding-text", has_text=file.name).wait_for()
    return held


def test_a_text_that_is_pasted_during_an_addition_is_not_lost(visit, empty, tmp_path):
    here = visit("search", at=empty, may_fail=True)
    page = here.page
    held = held_upload(page, pdf(tmp_path / "first.pdf", 2))
    page.get_by_text("Paste a text").click()
    page.locator("#paste-text").fill("The door is green.")
    page.get_by_role("button", name="Add text").click()
    page.locator("#documents-status").get_by_text("Documents are being added").wait_for()
    assert page.locator("#paste-text").input_value() == "The door is green."
    assert len(held) == 1
    page.get_by_role("button", name="Stop").click()
    page.locator("#documents-status").get_by_text("Stopped").wait_for()


def test_a_phone_has_a_button_that_leads_to_the_documents(visit):
    here = visit("search", viewport={"width": 390, "height": 700})
    page = here.page
    page.locator("#documents .name").first.wait_for()
    page.get_by_role("button", name="Documents (").click()
    page.wait_for_function(
        "() => { const box = document.getElementById('documents-title').getBoundingClientRect();"
        " return box.top >= 0 && box.bottom < innerHeight; }"
    )


def test_an_upload_can_be_stopped(visit, empty, tmp_path):
    here = visit("search", at=empty, may_fail=True)
    page = here.page
    held_upload(page, pdf(tmp_path / "stopped.pdf", 2))
    page.get_by_role("button", name="Stop").click()
    page.locator("#documents-status").get_by_text("Stopped").wait_for()
    assert page.locator("#adding").is_hidden()
    assert not page.locator("#documents-trouble").inner_text()


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"%PDF-1.4 broken", "no PDF that can be read"), (lines_pdf([" "]), "a PDF without text")],
)
def test_a_pdf_that_cannot_be_read_is_named_with_the_reason(visit, empty, tmp_path, data, words):
    here = visit("search", at=empty, may_fail=True)
    (tmp_path / "bad.pdf").write_bytes(data)
    here.page.locator("#server-model", has_text="tiny").wait_for()
    here.page.locator("#files").set_input_files(tmp_path / "bad.pdf")
    here.page.locator("#documents-status").get_by_text(words).wait_for()
    assert here.page.locator("#documents-status").inner_text().startswith("bad.pdf: ")


def test_a_server_that_goes_away_while_it_indexes_is_reported(visit, empty, tmp_path):
    here = visit("search", at=empty, may_fail=True)
    page = here.page
    page.locator("#server-model", has_text="tiny").wait_for()
    event = 'data: {"object": "rag.documents.progress", "passages": 3, "share": 0.5}\n\n'
    page.route("**/v1/rag/documents", lambda route: route.fulfill(body=event))
    page.locator("#files").set_input_files(pdf(tmp_path / "half.pdf", 2))
    page.locator("#documents-trouble").get_by_text("broke off").wait_for()
