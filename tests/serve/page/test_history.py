"""Conversations of the page: kept in the browser, listed, renamed, deleted, saved as files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.serve.conftest import TEXTS
from tests.serve.visiting import KEY


def talked(visit: Any, *questions: str) -> Any:
    """Return a visit with one conversation for each question."""
    here = visit()
    here.settings(length=6)
    for number, question in enumerate(questions):
        if number:
            here.page.get_by_role("button", name="New").click()
        here.say(question)
        here.answered(1)
    return here


def names(page: Any) -> list[str]:
    return page.locator("#history-list .name").all_inner_texts()


def test_earlier_conversations_are_listed_and_opened(visit):
    here = talked(visit, "What colour is the ball?", "Who sleeps?")
    page = here.page
    page.get_by_role("button", name="History").click()
    page.get_by_role("dialog", name="Conversations").wait_for()
    here.shot("history")
    assert names(page) == ["Who sleeps?", "What colour is the ball?"]
    page.get_by_role("button", name="What colour is the ball? 1 question").click()
    assert page.locator(".mine").all_text_contents() == ["You: What colour is the ball?"]
    here.say("And the car?")
    here.answered(2)
    body = here.bodies("/v1/chat/completions")[-1]
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    page.reload()
    assert page.locator(".mine").count() == 2


def test_a_new_tab_of_the_browser_begins_a_new_conversation_and_knows_the_others(visit):
    here = talked(visit, "Who sleeps?")
    other = here.page.context.new_page()
    other.goto(here.address)
    other.get_by_role("heading", name="What shall we talk about?").wait_for()
    other.get_by_role("button", name="History").click()
    assert names(other) == ["Who sleeps?"]


def test_a_conversation_is_renamed_and_escape_keeps_its_name(visit):
    page = talked(visit, "Who sleeps?").page
    page.get_by_role("button", name="History").click()
    page.get_by_role("button", name="Rename Who sleeps?").click()
    page.locator("#history-list input").fill("Cats")
    page.keyboard.press("Enter")
    assert names(page) == ["Cats"]
    page.get_by_role("button", name="Rename Cats").click()
    page.locator("#history-list input").fill("Dogs")
    page.keyboard.press("Escape")
    assert names(page) == ["Cats"]
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")


def test_a_conversation_is_deleted_and_put_back(visit):
    page = talked(visit, "Who sleeps?", "What boils?").page
    page.get_by_role("button", name="History").click()
    page.get_by_role("button", name="Delete What boils?").click()
    assert names(page) == ["Who sleeps?"]
    assert page.locator(".mine").count() == 0  # it was the one that was shown
    page.get_by_role("button", name="Undo").click()
    assert names(page) == ["What boils?", "Who sleeps?"]
    for name in ("What boils?", "Who sleeps?"):
        page.get_by_role("button", name=f"Delete {name}").click()
    page.get_by_text("No conversations yet").wait_for()
    page.reload()
    assert page.evaluate("localStorage.getItem('gritlm.conversations')") == "[]"


def test_an_answer_from_documents_is_saved_with_its_sources_and_its_quote(visit):
    here = visit()
    page = here.page
    here.settings(length=8)
    page.get_by_role("switch", name="Use documents").check(force=True)
    here.say("What colour is the ball?")
    here.answered(1)
    used = page.locator(".turn .source.used").first
    quote = page.locator(".turn blockquote").inner_text()
    assert any(quote in text for text in TEXTS.values())
    assert not used.locator("details").get_attribute("open")
    page.get_by_role("button", name="Show in the passage").click()
    mark = used.locator("mark.sentence")
    mark.wait_for()
    assert mark.inner_text() == quote
    assert page.evaluate("document.activeElement.matches('mark.sentence')")
    here.shot("chat-quote")
    page.reload()
    assert page.locator(".turn blockquote").inner_text() == quote
    page.get_by_role("button", name="History").click()
    with page.expect_download() as found:
        page.get_by_role("button", name="Save What colour is the ball? as JSON").click()
    assert found.value.suggested_filename == "What-colour-is-the-ball.json"
    saved = json.loads(found.value.path().read_text(encoding="utf-8"))
    assert [each["role"] for each in saved["messages"]] == ["user", "assistant"]
    assert saved["messages"][1]["quote"] == quote
    assert len(saved["messages"][1]["sources"]) == len(TEXTS)
    with page.expect_download() as found:
        page.get_by_role("button", name="Save What colour is the ball? as Markdown").click()
    lines = found.value.path().read_text(encoding="utf-8").split("\n")
    assert lines[0] == "# What colour is the ball?"
    assert f"> {quote}" in lines
    assert lines[-1].startswith("Sources: ")


@pytest.mark.parametrize(
    ("question", "alone"),
    [
        ("What boils at 100 degrees?", True),
        ("Where is it?", False),
        ("其实水在多少度沸腾，其他液体呢？", True),
        ("它是什么颜色的，为什么？", False),
    ],
)
def test_a_question_that_refers_to_the_one_before_is_searched_with_it(visit, question, alone):
    here = visit()
    here.settings(length=4)
    here.page.get_by_role("switch", name="Use documents").check(force=True)
    here.say("What colour is the ball?")
    here.answered(1)
    here.say(question)
    here.answered(2)
    body = here.bodies("/v1/chat/completions")[-1]
    assert len(body["messages"]) == (1 if alone else 3)
    assert body["messages"][-1]["content"] == question


def test_damaged_and_full_storage_does_no_harm(visit):
    here = visit()
    page = here.page
    page.evaluate("localStorage.setItem('gritlm.conversations', '{broken')")
    page.reload()
    here.settings(length=4)
    here.say("Hello")
    here.answered(1)
    page.evaluate(
        """async () => {
          const { keep } = await import("./static/conversations.js");
          const answer = "x".repeat(600_000);
          for (let n = 0; n < 12; n += 1)
            keep({ id: `${n}`, title: "", changed: 0, turns: [{ question: `q${n}`, answer }] });
        }"""
    )
    page.get_by_role("button", name="History").click()
    found = names(page)
    assert found[0] == "q11"
    assert 1 < len(found) < 12


def test_a_conversation_that_is_too_large_alone_leaves_the_others(visit):
    here = visit()
    page = here.page
    page.evaluate(
        """async () => {
          const { keep } = await import("./static/conversations.js");
          const turns = (answer) => [{ question: "q", answer }];
          keep({ id: "small", title: "small", changed: 0, turns: turns("a") });
          keep({ id: "huge", title: "huge", changed: 0, turns: turns("x".repeat(8_000_000)) });
        }"""
    )
    page.get_by_role("button", name="History").click()
    assert names(page) == ["small"]


def test_a_turn_that_failed_is_not_kept(visit):
    here = visit(may_fail=True)
    page = here.page
    page.evaluate(
        """async () => {
          const { keep } = await import("./static/conversations.js");
          const failed = { question: "r", answer: "", error: "no" };
          const turns = [{ question: "q", answer: "a" }, failed];
          keep({ id: "one", title: "one", changed: 0, turns });
        }"""
    )
    (kept,) = page.evaluate("JSON.parse(localStorage.getItem('gritlm.conversations'))")
    assert [turn["question"] for turn in kept["turns"]] == ["q"]


def test_forgetting_the_key_removes_the_conversations(visit, locked):
    here = visit(at=locked, may_fail=True)
    page = here.page
    page.get_by_role("dialog").get_by_label("Key").fill(KEY)
    page.keyboard.press("Enter")
    page.locator("#server-model", has_text="tiny").wait_for()
    here.settings(length=4)
    here.say("Hello")
    here.answered(1)
    assert page.evaluate("JSON.parse(localStorage.getItem('gritlm.conversations')).length") == 1
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Forget key and conversations").click()
    page.wait_for_function("() => localStorage.getItem('gritlm.conversations') === '[]'")
    page.get_by_role("dialog").get_by_label("Key").wait_for()
    assert page.locator("#talk li").count() == 0
