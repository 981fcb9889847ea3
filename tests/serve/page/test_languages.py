"""The page in English and Chinese: complete dictionaries, and no text of the other language."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.serve.visiting import PAGE

STATIC = PAGE / "static"
DICTIONARIES = {"en": "english", "zh-CN": "chinese"}
KEY = re.compile(r'^  "([a-z]\w*(?:\.\w+)+)":', re.MULTILINE)
CODE = [path for path in STATIC.glob("*.js") if path.stem not in DICTIONARIES.values()]
ATTRIBUTES = {
    "data-t": None,
    "data-t-label": "aria-label",
    "data-t-title": "title",
    "data-t-hint": "placeholder",
}
# Words that stay as they are in Chinese: names, units, commands and what the API answers.
NAMES = "API|JSON|Markdown|PDF|JavaScript|KV|Qwen\\S*|tiny|water|cats|ball"
KEPT = rf"(?:{NAMES}|gritlm|serve|--store|FOLDER|\.\w+|ms|s|kB|MB|B)"

# Content, not texts of the page: documents, questions, answers, texts to embed.
CONTENT = """
[lang=en], .mine, .text, .passage, .quote, .plane, .heat, .readout p, .names, .hit > :not(.place),
.name, .cluster h3, .hit h3, .server-model, title
"""
WORDS = """(content) => {
  const found = [];
  const unseen = "script, style, noscript, [hidden]";
  const ours = (element) => !element.closest(`${unseen}, ${content}`);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) if (ours(node.parentElement)) found.push(node.data);
  for (const name of ["aria-label", "title", "placeholder"])
    for (const element of document.querySelectorAll(`[${name}]`))
      if (ours(element)) found.push(element.getAttribute(name));
  return found.map((text) => text.trim()).filter(Boolean);
}"""


def keys(name: str) -> list[str]:
    return KEY.findall((STATIC / f"{name}.js").read_text(encoding="utf-8"))


def test_both_languages_have_the_same_keys():
    english, chinese = keys("english"), keys("chinese")
    assert len(english) > 150
    assert english == chinese
    assert len(english) == len(set(english))


def test_no_key_is_missing_and_none_is_unused():
    known = set(keys("english"))
    used: set[str] = set()
    for path in CODE:
        text = path.read_text(encoding="utf-8")
        called = re.findall(r'\bt\("([^"]*)"', text)
        assert set(called) <= known, path.name
        used |= {word for word in re.findall(r'"([\w.]+)"', text) if word in known}
    for path in PAGE.glob("*.html"):
        named = re.findall(r'\bdata-t(?:-\w+)?="([^"]*)"', path.read_text(encoding="utf-8"))
        assert set(named) <= known, path.name
        used |= set(named)
    assert used == known


def test_the_texts_in_the_files_of_the_page_are_those_of_the_english_dictionary(visit):
    """They are shown until the script runs, and to readers of the source."""
    page = visit().page
    differing = page.evaluate(
        """async (attributes) => {
          const { english } = await import("./static/english.js");
          const wrong = [];
          for (const name of [".", "docs"]) {
            const text = await (await fetch(name)).text();
            const page = new DOMParser().parseFromString(text, "text/html");
            for (const [kind, attribute] of attributes)
              for (const each of page.querySelectorAll(`[${kind}]`)) {
                const shown = attribute ? each.getAttribute(attribute) : each.textContent;
                if (shown !== english[each.getAttribute(kind)]) wrong.push(shown);
              }
          }
          return wrong;
        }""",
        list(ATTRIBUTES.items()),
    )
    assert differing == []


@pytest.mark.parametrize(
    ("locale", "language"),
    [("zh-CN", "zh-CN"), ("zh-TW", "zh-CN"), ("en-GB", "en"), ("de-DE", "en")],
)
def test_the_language_is_that_of_the_browser(visit, locale, language):
    page = visit(locale=locale).page
    page.locator("html[data-translated]").wait_for(state="attached")
    assert page.locator("html").get_attribute("lang") == language


def test_the_language_can_be_switched_and_is_remembered(visit):
    page = visit("search", locale="zh-CN").page
    page.get_by_role("heading", name="检索").wait_for()
    page.get_by_role("button", name="Switch to English").click()
    page.get_by_role("heading", name="Search").wait_for()
    assert page.evaluate("location.hash") == "#search"
    page.reload()
    page.get_by_role("heading", name="Search").wait_for()
    page.get_by_role("button", name="切换到中文").click()
    page.get_by_role("heading", name="检索").wait_for()
    assert page.locator("html").get_attribute("lang") == "zh-CN"


def foreign(page: Any) -> list[str]:
    """Return the texts of the page with words that are not Chinese."""
    rest = [
        (text, re.sub(rf"\b{KEPT}\b|\.\w+|--store", "", text))
        for text in page.evaluate(WORDS, CONTENT)
    ]
    return [text for text, words in rest if re.search(r"[A-Za-z]{2,}", words)]


def chat(here: Any) -> None:
    here.page.locator("#server-model", has_text="tiny").wait_for()
    here.page.locator("#chat-settings-button").click()
    here.page.locator("#chat-length").fill("6")
    here.say("你好")
    here.answered(1)


def search(here: Any) -> None:
    here.page.locator("#documents li").first.wait_for()
    here.page.locator("#search-query").fill("ball")
    here.page.keyboard.press("Enter")
    here.page.locator(".hit").first.wait_for()


def ask(here: Any) -> None:
    here.page.locator("#ask-question").fill("What colour is the ball?")
    here.page.locator("#ask-options-button").click()
    here.page.locator("#ask-length").fill("4")
    here.page.locator("#ask-send").click()
    here.page.get_by_text("已回答两遍").wait_for()


def embed(here: Any) -> None:
    here.page.locator("#embed-example").click()
    here.page.locator("#embed-form button[type=submit]").click()
    here.page.locator(".plane").wait_for()


@pytest.mark.parametrize("use", [chat, search, ask, embed])
def test_a_tab_is_chinese_before_and_after_its_use(visit, use):
    here = visit(use.__name__, locale="zh-CN")
    here.page.locator("#server[data-state=ready]").wait_for()
    here.page.locator("#server-model", has_text="tiny").wait_for()
    assert foreign(here.page) == []
    use(here)
    here.shot(f"{use.__name__}-zh")
    assert foreign(here.page) == []
    texts = "".join(here.page.evaluate(WORDS, CONTENT))
    assert len(re.findall(r"[\u4e00-\u9fff]", texts)) > 100


def test_errors_of_the_page_are_chinese_and_those_of_the_api_are_not(visit):
    here = visit(locale="zh-CN", may_fail=True)
    here.page.route("**/v1/chat/completions", lambda route: route.abort())
    here.say("你好")
    here.page.get_by_text("无法连接服务器").wait_for()
    here.page.unroute("**/v1/chat/completions")
    with here.page.expect_response("**/v1/chat/completions") as answer:
        here.say("word " * 1200)
    here.page.get_by_text(answer.value.json()["error"]["message"]).wait_for()
    assert here.page.locator(".trouble-facts").last.inner_text().startswith("状态 400")
