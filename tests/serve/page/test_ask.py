"""The Ask tab: a simple form, answers next to each other, the sentence in its passage."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

SENTENCE = "The library opens at nine."
TEXT = f"{'It is red, and it is old. ' * 30}{SENTENCE} {'Dogs may come in. ' * 30}"


def documents(page: Any, *titles: str) -> None:
    """Let the store have documents with these titles."""
    data = [
        {"id": title, "object": "rag.document", "title": title, "passages": 1, "metadata": {}}
        for title in titles
    ]
    listed = {"object": "list", "data": data, "total": len(data), "has_more": False}
    page.route(
        "**/v1/rag/documents?*", lambda route: route.fulfill(json=listed | {"last_id": None})
    )


def answers(page: Any, text: str, of_source: dict[str, Any] | None = None) -> None:
    """Let the server answer with a long passage, in which one sentence is the best."""
    source = {"id": "a", "document_id": "a", "title": "Library", "text": TEXT, "start": 0}
    source |= {"end": len(TEXT), "score": 0.9, "also_in": [], "used": True, "likelihood": -1.0}
    source |= of_source or {}
    events = [{"choices": [], "sources": [source]}, {"choices": [{"delta": {"content": text}}]}]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    headers = {"content-type": "text/event-stream"}
    page.route("**/v1/rag/answer", lambda route: route.fulfill(body=body, headers=headers))

    def rank(route: Any) -> None:
        sent = route.request.post_data_json["documents"]
        best = next(place for place, each in enumerate(sent) if SENTENCE in each)
        route.fulfill(json={"results": [{"index": best}]})

    page.route("**/v1/rerank", rank)


def ask(page: Any) -> None:
    page.locator("#ask-question").fill("When does it open?")
    page.keyboard.press("Enter")
    page.get_by_text("Answered twice").wait_for()


def test_a_newcomer_sees_a_question_and_a_button(visit):
    page = visit("ask").page
    shown = page.locator("#ask-form :is(textarea, button, input, select)").evaluate_all(
        "all => all.filter((each) => each.checkVisibility()).map((each) => each.id)"
    )
    assert shown == ["ask-question", "ask-options-button", "ask-send"]
    page.get_by_role("button", name="Options").click()
    assert page.get_by_label("Candidates").is_visible()
    assert page.get_by_role("button", name="Options").get_attribute("aria-expanded") == "true"


def test_questions_to_try_are_made_of_the_titles_of_the_store(visit):
    here = visit("ask")
    page = here.page
    documents(page, "Tides", "report.pdf", "x" * 80, "Ferries", "Tides", "潮汐")
    answers(page, "It opens at nine.")
    page.reload()
    ideas = page.locator("#ask-ideas button")
    ideas.first.wait_for()
    assert ideas.all_inner_texts() == [
        "What should I know about Tides?",
        "What should I know about Ferries?",
        "关于潮汐，应该知道什么？",
    ]
    assert [each.get_attribute("lang") for each in ideas.all()] == ["en", "en", "zh-CN"]
    ideas.nth(1).click()
    page.get_by_text("Answered twice").wait_for()
    asked = {body["question"] for body in here.bodies("/v1/rag/answer")}
    assert asked == {"What should I know about Ferries?"}


def test_a_store_whose_documents_have_no_titles_suggests_nothing(visit):
    page = visit("ask").page
    page.locator("#ask-empty-text", has_text=re.compile(r"Ask about your \d+ documents")).wait_for()
    assert page.locator("#ask-ideas").is_hidden()


@pytest.mark.parametrize("width", [1280, 390])
def test_both_answers_are_shown_with_their_times(visit, width):
    page = visit("ask", viewport={"width": width, "height": 900}).page
    answers(page, "At nine.")
    ask(page)
    boxes = [page.locator(name).bounding_box() for name in ("#ask-main", "#ask-other")]
    assert (boxes[0]["y"] == boxes[1]["y"]) == (width == 1280)
    assert (boxes[0]["x"] == boxes[1]["x"]) == (width == 390)
    for name, title in (("main", "Cached"), ("other", "Fresh")):
        card = page.locator(f"#ask-{name}")
        assert card.get_by_role("heading").inner_text().startswith(title)
        assert re.match(r"[\d.,]+ m?s to the first token", card.locator(".figures").inner_text())
        assert card.locator(".text").inner_text() == "At nine."


def test_the_quoted_sentence_is_marked_in_its_passage_and_shown_on_demand(visit):
    here = visit("ask", viewport={"width": 900, "height": 500})
    page = here.page
    answers(page, "opens at nine. Dogs may come")
    ask(page)
    passage, mark = page.locator("#ask-sources .passage"), page.locator("mark.sentence")
    assert passage.text_content() == TEXT
    assert mark.text_content() == SENTENCE
    words = page.locator("#ask-sources mark:not(.sentence)").all_text_contents()
    assert "".join(words) == "opens at nine. Dogs may come"
    assert page.locator("#ask-quote blockquote").inner_text() == SENTENCE

    def inside() -> bool:
        return page.evaluate(
            """() => {
              const [box, mark] = [".passage", "mark.sentence"].map(
                (name) => document.querySelector(`#ask-sources ${name}`).getBoundingClientRect());
              return mark.top >= box.top && mark.bottom <= box.bottom;
            }"""
        )

    assert inside()
    page.evaluate("document.querySelector('#ask-sources .passage').scrollTop = 0")
    assert not inside()
    page.evaluate("scrollTo(0, 0)")
    page.get_by_role("button", name="Show in the passage").click()
    page.wait_for_function(
        """() => {
          const { top, bottom } = document.querySelector("mark.sentence").getBoundingClientRect();
          return top > 0 && bottom < innerHeight && scrollY > 0;
        }"""
    )
    assert inside()
    assert page.evaluate("document.activeElement.matches('mark.sentence')")


def test_lines_of_a_pdf_are_joined_and_a_sentence_over_two_lines_is_quoted_whole(visit):
    here = visit("ask")
    page = here.page
    lines = ["Opening hours", "On weekdays visitors may come in from eight.", "Summer"]
    lines += ["In summer it is different, for the staff is away. The library", "opens at nine."]
    answers(page, "nine", {"text": "\n".join(lines), "page": 2})
    ask(page)
    (sent,) = here.bodies("/v1/rerank")
    assert sent["documents"][-1] == f"Library {SENTENCE}"
    assert page.locator("#ask-quote blockquote").inner_text() == SENTENCE
    joined = "\n".join([*lines[:3], f"{lines[3]} {lines[4]}"])
    assert page.locator("#ask-sources .passage").text_content() == joined


def test_sources_with_long_titles_fit_a_phone(visit):
    page = visit("ask", viewport={"width": 360, "height": 800}, is_mobile=True).page
    answers(page, "nine", {"title": "The report of the libraries of the county", "page": 12})
    ask(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_escape_stops_an_answer(visit):
    page = visit("ask", may_fail=True).page
    held: list[Any] = []
    page.route("**/v1/rag/answer", lambda route: held.append(route))
    page.locator("#ask-question").fill("When does it open?")
    page.keyboard.press("Enter")
    page.get_by_text("Answering with stored state").wait_for()
    page.keyboard.press("Escape")
    page.locator("#ask-status").get_by_text("Stopped").wait_for()
    assert page.evaluate("document.activeElement.id") == "ask-question"
    assert page.locator("#ask-send").is_visible()
