"""The page for everyone: names of all controls, contrast, focus, motion, and small screens."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.page.test_languages import ask, chat, embed, search

NAMED = {
    "application",
    "button",
    "checkbox",
    "combobox",
    "dialog",
    "image",
    "link",
    "log",
    "progressbar",
    "radio",
    "searchbox",
    "slider",
    "spinbutton",
    "switch",
    "tab",
    "tabpanel",
    "textbox",
}
USES = {"chat": chat, "search": search, "ask": ask, "embed": embed}

RATIO = """([front, back]) => {
  const mix = (name) => {
    const canvas = document.createElement("canvas").getContext("2d");
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.color = `var(--${name})`;
    canvas.fillStyle = getComputedStyle(probe).color;
    canvas.fillRect(0, 0, 1, 1);
    probe.remove();
    const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255);
    const [r, g, b] = parts.map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [high, low] = [mix(front), mix(back)].sort((a, b) => b - a);
  return (high + 0.05) / (low + 0.05);
}"""  # noqa: E501
GROUNDS = ("ground", "card", "sunk")
TEXT = [
    *((ink, ground) for ink in ("ink", "soft") for ground in GROUNDS),
    *(("accent", ground) for ground in ("ground", "card", "accent-soft")),
    ("accent-ink", "accent"),
    ("ink", "quoted"),
    ("ink", "words"),
    ("ink", "accent-soft"),
    ("ink", "bad-soft"),
    ("soft", "bad-soft"),
    ("bad", "ground"),
    *(("cluster-ink", f"c{n}") for n in range(8)),
]
GRAPHICS = [
    ("edge", "card"),
    ("edge", "ground"),
    *((mark, "ground") for mark in ("good", "wait", "bad")),
    *((f"c{n}", "card") for n in range(8)),
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_enough_contrast(visit, scheme):
    page = visit(color_scheme=scheme).page
    ratios = {pair: page.evaluate(RATIO, list(pair)) for pair in [*TEXT, *GRAPHICS]}
    assert ratios["ink", "ground"] > 7
    least = dict.fromkeys(GRAPHICS, 3.0) | dict.fromkeys(TEXT, 4.5)
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < least[pair]} == {}


def unnamed(page: Any) -> list[str]:
    """Return the roles of controls without a name in Chromium's accessibility tree."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    shown = [node for node in nodes if not node["ignored"]]
    assert sum(node["role"]["value"] == "tab" for node in shown) in (0, 4)  # a dialog hides them
    return [
        node["role"]["value"]
        for node in shown
        if node["role"]["value"] in NAMED and not node.get("name", {}).get("value", "").strip()
    ]


@pytest.mark.parametrize("name", USES)
def test_every_control_has_a_name_before_and_after_use(visit, name):
    here = visit(name, locale="zh-CN" if name in ("ask", "embed") else "en-US")
    here.page.locator("#server-model", has_text="tiny").wait_for()
    if name == "chat":
        here.page.locator("#chat-settings-button").click()
        assert unnamed(here.page) == []
        here.page.locator("#chat-settings-button").click()
    assert unnamed(here.page) == []
    if name in ("ask", "embed"):
        USES[name](here)
    elif name == "search":
        here.page.locator("#search-query").fill("ball")
        here.page.keyboard.press("Enter")
        here.page.locator(".hit").first.wait_for()
        here.page.get_by_text("Paste a text").click()
    assert unnamed(here.page) == []


def test_dialogs_name_their_controls_and_give_the_focus_back(visit):
    here = visit()
    page = here.page
    chat(here)
    for opener in ("#chat-history", "#server-model"):
        page.locator(opener).click()
        page.locator("dialog[open] :is(li, dt)").first.wait_for()
        assert unnamed(page) == []
        page.keyboard.press("Escape")
        page.wait_for_function("() => !document.querySelector('dialog[open]')")
        assert page.evaluate("s => document.activeElement.matches(s)", opener)


def test_news_is_announced(visit):
    page = visit().page
    states = page.locator("[role=status]").evaluate_all("all => all.map((each) => each.id)")
    for name in ("server", "chat-status", "search-status", "ask-status", "embed-status"):
        assert name in states
    assert {"adding-text", "documents-status", "history-status"} <= set(states)
    assert page.locator("#talk").get_attribute("role") == "log"


@pytest.mark.parametrize("name", USES)
def test_the_tab_key_reaches_every_control_and_shows_where_it_is(visit, name):
    page = visit(name).page
    page.locator("#server-model", has_text="tiny").wait_for()
    if name == "search":
        page.locator("#documents li").first.wait_for()
    page.locator("body").click(position={"x": 1, "y": 1})
    seen: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        here = page.evaluate(
            """() => {
              const at = document.activeElement;
              if (at === document.body) return null;
              const marks = [at, at.closest(".composer"), at.nextElementSibling, at.closest(".drop")];
              const shown = marks.some((each) => each && getComputedStyle(each).outlineStyle !== "none");
              at.dataset.reached = "";
              return [at.id || at.className || at.tagName, shown];
            }"""  # noqa: E501
        )
        if here is None or (seen and here[0] == seen[0] and len(seen) > 3):
            break
        assert here[1], f"no sign of the focus on {here[0]}"
        seen.append(here[0])
    missed = page.evaluate(
        """() => [...document.querySelectorAll("button, a[href], input, select, textarea, summary")]
          .filter((each) => each.checkVisibility() && each.tabIndex >= 0 && !each.disabled)
          .filter((each) => !("reached" in each.dataset))
          .filter((each) => each.type !== "radio").map((each) => each.id || each.textContent)"""
    )
    assert missed == []


def test_nothing_moves_where_motion_is_reduced(visit):
    page = visit("ask", reduced_motion="reduce").page
    moving = page.evaluate(
        """() => [...document.querySelectorAll("*")].flatMap((each) => {
          const { transitionDuration, animationDuration } = getComputedStyle(each);
          return [...transitionDuration.split(","), ...animationDuration.split(",")];
        }).map(parseFloat).filter((seconds) => seconds > 0.01)"""
    )
    assert moving == []
    assert page.evaluate("matchMedia('(prefers-reduced-motion: reduce)').matches")


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_dialogs_and_options_fit_a_small_phone(visit, locale):
    here = visit(viewport={"width": 320, "height": 640}, is_mobile=True, locale=locale)
    page = here.page
    wide = "document.documentElement.scrollWidth"
    chat(here)
    for opener in ("#chat-history", "#server-model"):
        page.locator(opener).click()
        page.locator("dialog[open] :is(li, dt)").first.wait_for()
        box = page.locator("dialog[open]").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 320
        assert page.locator("dialog[open]").evaluate("e => e.scrollWidth - e.clientWidth") <= 0
        here.shot(f"phone-{opener[1:]}-{locale}")
        page.keyboard.press("Escape")
    page.locator("#tab-ask").click()
    page.locator("#ask-options-button").click()
    assert page.evaluate(wide) <= 320
