"""The page as a person uses it, in Chromium, against a running server."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gritlm.rag.types import Trace
from tests.serve.conftest import TEXTS
from tests.serve.visiting import KEY, PAGE, serving

TABS = ("chat", "search", "ask", "embed")


def test_the_header_tells_which_model_is_served_and_how_the_server_is(visit):
    page = visit().page
    page.locator("#server[data-state=ready]").wait_for()
    page.locator("#server-model", has_text="tiny").wait_for()
    assert page.locator("#server-state").inner_text() == "ready"
    assert page.title() == "gritlm: tiny"


def test_a_chat_is_streamed_and_kept(visit):
    here = visit()
    page = here.page
    here.settings(length=12)
    here.say("What colour is the ball?")
    here.answered(1)
    assert re.search(r"\d+ tokens? · first after", page.locator(".facts").inner_text())
    here.say("And the car?")
    here.answered(2)
    here.shot("chat")
    page.reload()
    assert page.locator(".mine").all_text_contents() == [
        "You: What colour is the ball?",
        "You: And the car?",
    ]
    body = here.bodies("/v1/chat/completions")[1]
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    page.get_by_role("button", name="New").click()
    assert page.get_by_role("heading", name="What shall we talk about?").is_visible()


def test_settings_of_a_chat_reach_the_server(visit):
    here = visit()
    here.settings(length=3, system="Be brief.", temperature="0.5")
    here.say("Hello")
    here.answered(1)
    (body,) = here.bodies("/v1/chat/completions")
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["max_completion_tokens"]) == (0.5, 3)


def take_long(route):
    """Let an answer have its full length, and take one token a step."""
    slow = {"prompt_lookup_num_tokens": 0, "ignore_eos": True}
    body = route.request.post_data_json | slow
    route.continue_(post_data=json.dumps(body))


def test_an_answer_that_is_stopped_keeps_what_was_written(visit):
    here = visit()
    here.page.route("**/v1/chat/completions", take_long)
    here.settings(length=900)
    here.say("Hello")  # this model has much to say to that
    here.page.wait_for_function(  # in the page: the answer may end before a click from outside
        """() => {
          const written = document.querySelector(".theirs .text:not(:empty)");
          if (written) document.querySelector("button[aria-label=Stop]").click();
          return written !== null;
        }"""
    )
    here.answered(1)
    assert "stopped" in here.page.locator(".facts").inner_text()
    here.page.wait_for_function(
        """async () => (await (await fetch('metrics')).text())
           .includes('gritlm_num_requests_running 0.0')"""
    )


def test_a_chat_can_answer_from_documents_and_shows_its_sources(visit):
    here = visit()
    here.settings(length=8)
    here.page.get_by_role("switch", name="Use documents").check(force=True)
    here.say("What colour is the ball?")
    here.answered(1)
    sources = here.page.locator(".turn .source")
    assert sources.count() == 3
    assert here.page.locator(".turn .source.used").count() == 1
    sources.first.locator("summary").click()
    here.shot("chat-documents")
    shown = sources.first.locator("p").first.inner_text()
    assert any(text in shown for text in TEXTS.values())


def test_passages_are_ranked_with_scores(visit):
    here = visit("search")
    page = here.page
    page.get_by_placeholder("What are you looking for?").fill("Who sleeps most of the day?")
    page.keyboard.press("Enter")
    page.locator(".hit").first.wait_for()
    here.shot("search")
    scores = [float(text) for text in page.locator(".hit .score").all_inner_texts()]
    assert len(scores) == len(TEXTS)
    assert scores == sorted(scores, reverse=True)
    widths = [bar.bounding_box()["width"] for bar in page.locator(".hit .bar i").all()]
    assert widths == sorted(widths, reverse=True)


def test_a_search_that_is_sent_before_the_server_is_known_is_not_lost(visit):
    page = visit("search").page
    held: list[Any] = []
    page.route("**/v1/models", lambda route: held.append(route))
    page.reload()
    page.get_by_placeholder("What are you looking for?").fill("Who sleeps most of the day?")
    page.keyboard.press("Enter")
    page.locator(".hit").first.wait_for()
    for route in held:
        route.continue_()
    page.locator("#server-model", has_text="tiny").wait_for()
    page.locator("#documents li").first.wait_for()
    assert page.locator(".hit").count() == len(TEXTS)


def test_a_passage_shows_the_other_documents_that_hold_it(visit):
    here = visit("search")
    page = here.page
    page.locator("#documents li").first.wait_for()
    status = page.locator("#documents-status")
    for name in ("tide.txt", "shore.txt"):
        here.drop(name, "The tide comes twice a day.")
        status.get_by_text("Indexed 1 document").wait_for()
    page.get_by_placeholder("What are you looking for?").fill("The tide comes twice a day.")
    page.keyboard.press("Enter")
    hit = page.locator(".hit", has_text="The tide comes").first
    hit.wait_for()
    place = hit.locator(".place").inner_text()
    for name in ("tide.txt", "shore.txt"):
        page.get_by_role("button", name=f"Delete {name}").click()
        status.get_by_text(f"Deleted {name}").wait_for()
    assert {"tide.txt", "shore.txt"} == set(re.findall(r"\w+\.txt", place))
    assert ", also in " in place


def test_documents_are_added_and_deleted(visit, tmp_path: Path):
    here = visit("search")
    page = here.page
    page.locator("#documents li").first.wait_for()
    (tmp_path / "picked.md").write_text("# Sea\n\nThe sea is salty.", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    page.locator("#files").set_input_files([tmp_path / "picked.md", tmp_path / "empty.txt"])
    status = page.locator("#documents-status")
    status.get_by_text("empty.txt: it is empty").wait_for()
    assert re.fullmatch(r"Indexed 1 document: 1 passage, [\d.]+ m?s\. empty.*", status.inner_text())
    here.drop("dropped.txt", "Rain falls from clouds.")
    status.get_by_text(re.compile(r"^Indexed 1 document: 1 passage, [\d.]+ m?s$")).wait_for()
    page.get_by_text("Paste a text").click()
    page.get_by_label("Title").fill("Snow")
    page.get_by_label("Text", exact=True).fill("Snow is white.")
    page.get_by_role("button", name="Add text").click()
    page.locator("#documents .name", has_text="Snow").wait_for()
    here.shot("search-documents")
    before = page.locator("#documents li").count()
    assert before == len(TEXTS) + 3
    for name in ("Sea", "dropped.txt", "Snow"):
        page.get_by_role("button", name=f"Delete {name}").click()
        status.get_by_text(f"Deleted {name}").wait_for()
    assert page.locator("#documents li").count() == before - 3


def test_rows_that_are_skipped_without_a_name_are_counted(visit):
    here = visit("search")
    here.page.locator("#documents li").first.wait_for()
    row = '{"id": "r", "text": "Hail is ice."}\n'
    here.drop("rows.jsonl", row + "1\n" * 1500)
    status = here.page.locator("#documents-status")
    status.get_by_text("1,400 more skipped").wait_for()
    assert re.match(r"Indexed 1 document: 1 passage, [\d.]+ m?s\. rows", status.inner_text())
    here.page.get_by_role("button", name="Delete rows.jsonl#r").click()
    status.get_by_text("Deleted rows.jsonl#r").wait_for()


def test_a_question_is_asked_both_ways_and_what_each_took_is_drawn(visit):
    here = visit("ask")
    page = here.page
    page.get_by_placeholder("A question that your documents answer").fill(
        "What colour is the ball?"
    )
    page.locator("#ask-options-button").click()
    page.get_by_label("Length").fill("8")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("Answered twice").wait_for()
    page.get_by_text("Every stage").click()
    here.shot("ask")
    bodies = here.bodies("/v1/rag/answer")
    assert [body["mode"] for body in bodies] == ["doc", "none"]
    assert [body["fusion"] for body in bodies] == ["sequence", "joint"]
    assert page.locator("#ask-sources .source").count() == 3
    assert page.locator("#ask-sources .use").all_inner_texts() == [
        "answered from",
        "not used",
        "not used",
    ]
    scores = page.locator("#ask-sources .source.used .scores").inner_text()
    found = re.fullmatch(
        r"cosine with the question (0\.\d{3}) · "
        r"mean log-probability of the question after this passage \u2212\d+\.\d\d",
        scores,
    )
    assert found is not None, scores
    cached, fresh = page.locator(".chart").nth(1).locator(".value").all_inner_texts()
    assert int(cached) < int(fresh)
    for time in page.locator(".chart").nth(0).locator(".value").all_inner_texts():
        assert re.fullmatch(r"[\d.]+ m?s", time)
    assert "tokens were read instead of" in page.locator("#ask-verdict").inner_text()


def test_the_use_of_passages_follows_the_mode(visit):
    page = visit("ask").page
    page.locator("#ask-options-button").click()
    fusions = page.locator("#ask-fusion input")
    values = [each.get_attribute("value") for each in fusions.all()]
    assert values == ["sequence", "token", "joint"]
    page.get_by_role("radio", name="all, mixed").check()
    assert "every token" in page.locator("#ask-fusion-hint").inner_text()
    page.get_by_role("radio", name="documents + question").check()
    assert [each.is_disabled() for each in fusions.all()] == [True, True, False]
    assert page.get_by_role("radio", name="all, in one prompt").is_checked()
    page.get_by_role("radio", name="documents", exact=True).check()
    assert not any(each.is_disabled() for each in fusions.all())


def test_the_sentence_that_answers_best_is_quoted_below_the_answer(visit):
    here = visit("ask")
    page = here.page
    page.route("**/v1/rerank", lambda route: route.fulfill(json={"results": [{"index": 1}]}))
    text = "It is red, e.g. in autumn. The library opens at nine. On <b>Sundays</b> it is closed."
    source = {"id": "a", "document_id": "a", "title": "Library", "text": text, "start": 0}
    source |= {"end": len(text), "score": 0.9, "also_in": [], "used": True, "likelihood": -1.0}
    events: list[dict[str, Any]] = [
        {"choices": [], "sources": [source]},
        {"choices": [{"delta": {"content": "Opens at nine"}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    ]
    ask_with_answer(page, events)
    here.shot("ask-quoted-sentence")
    (sent,) = here.bodies("/v1/rerank")
    assert sent["query"] == "When does it open?"
    assert sent["documents"][1:] == [
        "Library The library opens at nine.",
        "Library On <b>Sundays</b> it is closed.",
    ]
    assert page.locator("#ask-quote blockquote").inner_text() == "The library opens at nine."
    assert page.locator("#ask-quote mark").inner_text() == "opens at nine"


def test_an_answer_stands_without_a_quote_where_ranking_is_refused(visit):
    here = visit("ask", may_fail=True)
    page = here.page
    page.route("**/v1/rerank", lambda route: route.fulfill(status=403, json={"error": {}}))
    text = "It is red. The library opens at nine."
    source = {"id": "a", "document_id": "a", "title": "", "text": text, "start": 0}
    source |= {"end": len(text), "score": 0.9, "also_in": [], "used": True, "likelihood": -1.0}
    events: list[dict[str, Any]] = [
        {"choices": [], "sources": [source]},
        {"choices": [{"delta": {"content": "nine"}}]},
    ]
    ask_with_answer(page, events)
    assert page.locator("#ask-quote blockquote").count() == 0
    assert page.locator("#ask-answer").inner_text() == "nine"
    assert not page.locator("#ask-trouble").inner_text()


def ask_with_answer(page: Any, events: list[dict[str, Any]]) -> None:
    """Ask on the page, where the server answers with these events."""
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    page.route(
        "**/v1/rag/answer",
        lambda route: route.fulfill(body=body, headers={"content-type": "text/event-stream"}),
    )
    page.get_by_placeholder("A question that your documents answer").fill("When does it open?")
    page.locator("#ask-options-button").click()
    page.get_by_role("radio", name="nothing").check()
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("Answered", exact=True).wait_for()


def test_the_words_of_the_answer_are_marked_in_the_passage_that_it_comes_from(visit):
    here = visit("ask")
    page = here.page
    passage = "The library opens at nine. On Sundays it is closed."
    sources = [
        {
            "id": name,
            "document_id": name,
            "title": title,
            "text": passage,
            "start": 0,
            "end": len(passage),
            "score": score,
            "also_in": [],
            "used": name == "a",
            "likelihood": -score,
        }
        for name, title, score in (("a", "Library", 0.9), ("b", "Copy of it", 0.8))
    ]
    events: list[dict[str, Any]] = [
        {"choices": [], "sources": sources},
        {"choices": [{"delta": {"content": "It <b>Opens at NINE, on Sundays</b>"}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    ]
    ask_with_answer(page, events)
    here.shot("ask-quote")
    assert page.locator("#ask-sources details").first.get_attribute("open") is not None
    assert page.locator("#ask-sources details").nth(1).get_attribute("open") is None
    words = page.locator("#ask-sources mark:not(.sentence)").all_text_contents()
    assert "".join(words) == "opens at nine. On Sundays"
    assert page.locator("#ask-sources .passage").all_text_contents() == [passage, passage]


@pytest.mark.parametrize("supported", [True, False, None])
def test_an_answer_that_its_passages_hardly_support_says_so(visit, supported):
    here = visit("ask")
    page = here.page
    trace = asdict(Trace(supported=supported, mode="none", milliseconds={"prefill": 1.0}))
    events: list[dict[str, Any]] = [
        {"choices": [], "sources": []},
        {"choices": [{"delta": {"content": "Nine."}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}], "trace": trace},
    ]
    ask_with_answer(page, events)
    note = page.get_by_text("The passages may not hold the answer")
    if supported is False:
        note.wait_for()
    assert note.is_visible() == (supported is False)


@pytest.mark.parametrize(
    ("passage", "answer", "quote"),
    [
        ("It was built in 1904, by hand.", "1904", "1904"),
        ("It was built by hand.", "a hand", None),
        ("It was built by hand.", "By Hand: slowly", "by hand"),
        ("the ball, the red ball", "the red ball", "the red ball"),
        ("Größe der Maß: über 3 Liter", "GRÖSSE DER MASS über 3", "über 3"),
        ("It was built.", "", None),
        ("", "some words", None),
        ("a b a b c", "a b c", "a b c"),
        ("图书馆上午九点开门，晚上关门。", "九点", "九点"),
        ("😀她说：「九点开门」👍。", "上午九点开门！", "九点开门"),
        ("😀 𠮷野家在这里", "𠮷野家", "𠮷野家"),
        ("用Qwen3模型检索", "Qwen3模型", "Qwen3模型"),
        ("東京タワーは333メートルです。", "高さ333メートル", "333メートル"),
        ("도서관은 문을 닫습니다.", "문을 닫습니다", "문을 닫습니다"),
        ("图书馆开门。", "狗", None),
    ],
)
def test_a_quote_is_the_longest_run_of_words_or_a_number(visit, passage, answer, quote):
    found = visit("ask").page.evaluate(
        """async ([passage, answer]) => {
          const { quoteIn } = await import("./static/quote.js");
          const span = quoteIn(passage, answer);
          return span && passage.slice(...span);
        }""",
        [passage, answer],
    )
    assert found == quote


def test_a_question_that_reuses_nothing_is_asked_once(visit):
    here = visit("ask")
    page = here.page
    page.get_by_placeholder("A question that your documents answer").fill("Where do dogs walk?")
    page.locator("#ask-options-button").click()
    page.get_by_role("radio", name="nothing").check()
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("Answered", exact=True).wait_for()
    assert [body["mode"] for body in here.bodies("/v1/rag/answer")] == ["none"]
    assert page.locator(".chart").first.locator(".value").count() == 1


def test_texts_are_embedded_and_drawn(visit):
    here = visit("embed")
    page = here.page
    page.get_by_role("button", name="Fill in an example").click()
    page.get_by_label("Instruction").fill("Represent the topic")
    with page.expect_response("**/v1/embeddings") as answer:
        page.get_by_role("button", name="Embed", exact=True).click()
    page.locator(".plane").wait_for()
    here.shot("embed")
    data = answer.value.json()["data"]
    vectors_ND = np.stack(
        [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in data]
    )
    shown = page.locator(".heat .cell text").all_text_contents()
    assert shown == [f"{cosine:.2f}" for cosine in (vectors_ND @ vectors_ND.T).ravel()]
    page.locator(".heat").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("#heat-readout strong").inner_text() in {
        f"{cosine:.3f}" for cosine in (vectors_ND @ vectors_ND.T).ravel()
    }
    assert page.locator(".plane .point").count() == len(data)


@pytest.mark.parametrize("lines", ["only one", "\n".join(map(str, range(151)))])
def test_too_few_and_too_many_texts_are_not_sent(visit, lines):
    here = visit("embed")
    here.page.get_by_label("Texts, one a line").fill(lines)
    here.page.get_by_role("button", name="Embed", exact=True).click()
    assert here.bodies("/v1/embeddings") == []
    assert here.page.locator("#embed-texts:invalid").count() == 1


def test_the_map_is_that_of_a_singular_value_decomposition(visit):
    vectors_ND = np.random.default_rng(0).normal(size=(12, 30))
    found = visit().page.evaluate(
        "async rows => (await import(new URL('static/vectors.js', document.baseURI))).pca(rows)",
        vectors_ND.tolist(),
    )
    left, values, _ = np.linalg.svd(vectors_ND - vectors_ND.mean(0), full_matrices=False)
    expected_N2 = np.abs(left[:, :2] * values[:2])
    np.testing.assert_allclose(np.abs(found["points"]), expected_N2, atol=1e-9)
    np.testing.assert_allclose(found["shares"], (values**2 / (values**2).sum())[:2], atol=1e-9)


def test_what_a_model_writes_is_shown_as_text_and_never_as_markup(visit):
    page = visit().page
    shown = page.evaluate(
        """async text => {
          const { markdown } = await import(new URL('static/markdown.js', document.baseURI));
          const place = document.createElement('div');
          place.append(...markdown(text));
          return place.innerHTML;
        }""",
        "# Title\n\n<img src=x onerror=alert(1)> **bold** `a<b`\n- one\n- two\n\n3. three\n"
        "```js\n<script>\n",
    )
    assert shown == (
        "<h4>Title</h4><p>&lt;img src=x onerror=alert(1)&gt; <strong>bold</strong> "
        "<code>a&lt;b</code></p><ul><li>one</li><li>two</li></ul>"
        '<ol start="3"><li>three</li></ol><pre tabindex="0"><code>&lt;script&gt;\n</code></pre>'
    )


def test_errors_of_the_api_are_shown_as_they_are(visit):
    here = visit(may_fail=True)
    here.settings(length=900)
    with here.page.expect_response("**/v1/chat/completions") as answer:
        here.say("word " * 900)
    error = answer.value.json()["error"]
    shown = here.page.get_by_role("alert")
    assert shown.locator(".trouble-message").inner_text() == error["message"]
    facts = shown.locator(".trouble-facts").inner_text()
    assert facts.startswith(f"status 400 · {error['code']} · {error['type']}")
    here.shot("error")
    assert shown.get_by_role("button", name="Try again").is_visible()


STREAM = {
    'data: {"choices":[{"delta":{"content":"It was a"}}]}\n\n': "broken_off",
    'data: {"choices":[{"delta":{"content":"It was a"}}]}\n\n'
    'data: {"error":{"message":"no","code":"internal_error","type":"server_error"}}\n\n': (
        "internal_error"
    ),
}


@pytest.mark.parametrize("stream", STREAM)
def test_an_answer_that_breaks_off_is_kept_and_says_so(visit, stream):
    here = visit()
    here.page.route("**/v1/chat/completions", lambda route: route.fulfill(body=stream))
    here.say("Hello")
    here.answered(1)
    assert here.page.locator(".theirs .text").inner_text() == "It was a"
    assert STREAM[stream] in here.page.locator(".trouble-facts").inner_text()


@pytest.mark.parametrize(("code", "words"), [("draining", "shutting down"), ("x", "x")])
def test_the_header_tells_why_a_server_is_not_ready(visit, code, words):
    here = visit(may_fail=True)
    error = {"error": {"code": code}}
    here.page.route("**/health", lambda route: route.fulfill(status=503, json=error))
    here.page.reload()
    here.page.locator("#server[data-state=wait] #server-state", has_text=words).wait_for()


def test_the_header_tells_that_a_server_is_gone(visit):
    here = visit(may_fail=True)
    here.page.route("**/health", lambda route: route.abort())
    here.page.reload()
    here.page.locator("#server[data-state=bad]", has_text="cannot be reached").wait_for()


def test_a_server_with_a_key_asks_for_it(visit, locked):
    here = visit(at=locked, may_fail=True)
    page = here.page
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Key").fill("wrong")
    page.keyboard.press("Enter")
    dialog.get_by_text("invalid_api_key").wait_for()
    here.shot("key")
    dialog.get_by_label("Key").fill(KEY)
    page.keyboard.press("Enter")
    page.locator("#server-model", has_text="tiny").wait_for()
    here.settings(length=4)
    here.say("Hello")
    here.answered(1)
    page.reload()
    page.locator("#server-model", has_text="tiny").wait_for()
    kept = page.evaluate("Object.values(localStorage).join()")
    assert kept
    assert KEY not in kept
    assert not page.get_by_role("switch", name="Use documents").is_visible()
    page.get_by_role("tab", name="Ask").click()
    assert page.locator("#ask [data-no-store]").is_visible()
    here.shot("no-store")


@pytest.mark.parametrize("key", [None, KEY])
def test_the_api_is_shown_with_all_routes(visit, address, locked, key):
    at = address if key is None else locked
    here = visit("", at=f"{at}/docs", may_fail=key is not None)
    page = here.page
    if key is not None:
        page.get_by_role("dialog").get_by_label("Key").fill(key)
        page.keyboard.press("Enter")
    page.locator(".opblock").first.wait_for()
    schema = page.evaluate(
        """async (key) => {
          const response = await fetch("openapi.json", { headers: { "x-api-key": key } });
          return response.json();
        }""",
        key or "",
    )
    shown = {
        (row.locator(".opblock-summary-method").inner_text(), path)
        for row in page.locator(".opblock").all()
        if (path := row.locator("[data-path]").get_attribute("data-path"))
    }
    assert shown == {
        (method.upper(), path) for path, found in schema["paths"].items() for method in found
    }
    row = page.locator(".opblock", has=page.locator("[data-path='/v1/models']"))
    row.locator(".opblock-summary-control").click()
    row.get_by_role("button", name="Try it out").click()
    row.get_by_role("button", name="Execute").click()
    row.locator(".live-responses-table", has_text="tiny").wait_for()
    here.shot("docs")
    policy = page.evaluate(
        """async () => (await fetch("docs")).headers.get("content-security-policy")"""
    )
    assert policy == page.evaluate(
        """async () => (await fetch(".")).headers.get("content-security-policy")"""
    )


def test_a_store_is_chosen_on_the_page(visit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with serving(folder, store=True, more_stores=("law",)) as at:
        here = visit("search", at=at)
        page = here.page
        page.locator("#documents li").first.wait_for()
        assert page.locator("#documents li").count() == len(TEXTS)
        page.get_by_placeholder("What are you looking for?").fill("Who sleeps?")
        page.keyboard.press("Enter")
        page.locator(".hit").first.wait_for()
        page.locator("#store").select_option("law")
        page.get_by_text("Add documents, then search").wait_for()
        assert page.locator(".hit").count() == 0
        here.drop("contract.txt", "A contract needs an offer.")
        page.locator("#documents-status").get_by_text("Indexed 1 document").wait_for()
        page.reload()
        page.locator("#documents .name", has_text="contract.txt").wait_for()
        assert page.locator("#documents li").count() == 1
        page.get_by_role("tab", name="Ask").click()
        page.get_by_placeholder("A question that your documents answer").fill("What does it need?")
        page.locator("#ask-options-button").click()
        page.get_by_label("Length").fill("4")
        page.get_by_role("button", name="Ask", exact=True).click()
        page.get_by_text("Answered twice").wait_for()
        assert [body["store"] for body in here.bodies("/v1/rag/answer")] == ["law", "law"]
        here.shot("stores")
        page.get_by_role("tab", name="Search").click()
        page.get_by_role("button", name="Delete contract.txt").click()
        page.locator("#documents-status").get_by_text("Deleted").wait_for()


def test_one_store_is_not_chosen(visit):
    page = visit("search").page
    page.locator("#documents li").first.wait_for()
    assert not page.locator("#store").is_visible()


def test_all_tabs_can_be_used_with_the_keyboard_alone(visit):
    here = visit()
    page = here.page
    page.locator("#server-model", has_text="tiny").wait_for()

    def press(*keys: str) -> None:
        for key in keys:
            page.keyboard.press(key)

    def tab_to(selector: str) -> None:
        for _ in range(40):
            press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                outline = "getComputedStyle(document.activeElement).outlineStyle"
                assert page.evaluate(outline) != "none" or selector == "#chat-text"
                return
        raise AssertionError(f"the Tab key never comes to {selector}")

    tab_to("#tab-chat")
    tab_to("#chat-settings-button")
    press("Enter")
    page.locator("#chat-length").fill("6")
    page.locator("#tab-chat").focus()
    tab_to("#chat-text")
    page.keyboard.type("Hello")
    press("Enter")
    here.answered(1)
    page.locator("#tab-chat").focus()
    press("ArrowRight")
    assert page.evaluate("location.hash") == "#search"
    tab_to("#search-query")
    page.keyboard.type("ball")
    press("Enter")
    page.locator(".hit").first.wait_for()
    tab_to("#files")
    tab_to("#documents button")
    page.locator("#tab-search").focus()
    press("ArrowRight")
    tab_to("#ask-question")
    page.keyboard.type("What colour is the ball?")
    tab_to("#ask-options-button")
    press("Enter")
    tab_to("#ask-mode input")
    press("ArrowRight")
    tab_to("#ask-length")
    press("Control+a")
    page.keyboard.type("4")
    press("Enter")
    page.get_by_text("Answered twice").wait_for()
    assert here.bodies("/v1/rag/answer")[0]["mode"] == "doc-query"
    page.locator("#tab-ask").focus()
    press("End")
    tab_to("#embed-texts")
    page.keyboard.type("one")
    press("Enter")
    page.keyboard.type("two")
    tab_to("#embed-form button[type=submit]")
    press("Enter")
    page.locator(".heat").wait_for()
    tab_to(".heat")
    press("ArrowLeft")
    page.locator("#tab-embed").focus()
    press("ArrowRight")
    assert page.locator("#tab-chat").get_attribute("aria-selected") == "true"


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(visit, width):
    here = visit(viewport={"width": width, "height": 800}, is_mobile=width == 360)
    page = here.page
    here.settings(length=8)
    here.say("Hello")
    here.answered(1)
    page.get_by_role("tab", name="Search").click()
    page.get_by_placeholder("What are you looking for?").fill("ball")
    page.keyboard.press("Enter")
    page.locator(".hit").first.wait_for()
    page.get_by_role("tab", name="Ask").click()
    page.get_by_placeholder("A question that your documents answer").fill("Who has a ball?")
    page.locator("#ask-options-button").click()
    page.get_by_label("Length").fill("4")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("Answered twice").wait_for()
    page.get_by_role("tab", name="Embed").click()
    page.get_by_label("Texts, one a line").fill("\n".join(f"text {n}" for n in range(50)))
    page.get_by_role("button", name="Embed", exact=True).click()
    page.locator(".heat").wait_for()
    for name in TABS:
        page.locator(f"#tab-{name}").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        here.shot(f"{name}-{width}")


def test_dark_follows_the_system_and_can_be_chosen(visit):
    def ground(page: Any) -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = visit(color_scheme="light").page, visit("ask", color_scheme="dark")
    dark.shot("dark")
    assert (ground(light), ground(dark.page)) == ("rgb(247, 247, 245)", "rgb(19, 21, 22)")
    switch = light.locator("#look")
    switch.click()
    assert ground(light) == "rgb(247, 247, 245)"
    switch.click()
    assert ground(light) == "rgb(19, 21, 22)"
    light.reload()
    assert ground(light) == "rgb(19, 21, 22)"
    assert light.locator("#look").get_attribute("aria-label") == "Colours: dark. Change"


OWN = sorted(path for path in PAGE.rglob("*.*") if path.parent.name != "vendor")


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_file_of_the_page_names_another_host(path):
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", text)


@pytest.mark.parametrize("path", sorted(PAGE.glob("*.html")), ids=lambda path: path.name)
def test_the_page_has_no_inline_script_or_style(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)


def test_files_of_swagger_ui_are_those_that_the_readme_names():
    vendor = PAGE / "vendor"
    rows = re.findall(r"\| `(\S+)` \| `([0-9a-f]{64})` \|", (vendor / "README.md").read_text())
    assert [name for name, _ in rows] == ["swagger-ui-bundle.js", "swagger-ui.css"]
    for name, expected in rows:
        assert sha256((vendor / name).read_bytes()).hexdigest() == expected
    assert "Apache License" in (vendor / "LICENSE").read_text(encoding="utf-8")


def test_labels_name_fields_that_are_there():
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    for name in ("for", "aria-controls", "aria-labelledby", "aria-describedby"):
        for value in re.findall(rf'\b{name}="([^"]+)"', text):
            assert value in ids, json.dumps([name, value])
