"""A visitor of the page: Chromium at the size of a screen, and the actions of a person."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs.screenshots.questions import Guide, Question

TIMEOUT_MS = 120_000
MACHINE_MS = 2000  # time between two measurements of the panel of the machine
NAMES = ("chromium", "chromium-browser", "google-chrome")
# Without a font, two different characters are drawn as the same box.
_DRAWS_CHINESE = """() => {
  const drawn = ["中", "文"].map((character) => {
    const canvas = document.createElement("canvas");
    canvas.getContext("2d").fillText(character, 10, 20);
    return canvas.toDataURL();
  });
  return drawn[0] !== drawn[1];
}"""


class WrongAnswerError(Exception):
    """The page shows an answer that lacks a fact, or another passage or sentence."""


class LayoutError(Exception):
    """The page does not fit the screen."""


class BrowserError(Exception):
    """Chromium or a font for Chinese, which stands in the header of the page, is missing."""


@dataclass(frozen=True)
class Screen:
    """Size of a picture in CSS pixels, and the settings of the browser.

    Attributes:
        width: width of the window.
        height: height of the window, which is the height of the picture.
        phone: whether the screen is that of a phone, with 1.5 pixels for each CSS pixel.
        dark: whether the system asks for dark colours.
        language: language of the browser.
    """

    width: int
    height: int
    phone: bool = False
    dark: bool = False
    language: str = "en-GB"

    @property
    def scale(self) -> float:
        """Pixels for each CSS pixel."""
        return 1.5 if self.phone else 1.0

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return int(self.width * self.scale), int(self.height * self.scale)


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium: the one of the system, or that of playwright.

    Raises:
        BrowserError: this machine has no Chromium.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = next((path for name in NAMES if (path := shutil.which(name))), own)
        if not Path(found).is_file():
            raise BrowserError("this machine has no Chromium; on Debian: apt install chromium")
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


def check_fonts(browser: Any) -> None:
    """Raise BrowserError if the browser draws boxes for Chinese."""
    page = browser.new_page()
    drawn = page.evaluate(_DRAWS_CHINESE)
    page.close()
    if not drawn:
        raise BrowserError("Chromium has no Chinese font; on Debian: apt install fonts-noto-cjk")


class Visitor:
    """A person at the page.

    Elements are found by their ids, which do not depend on the language of the page.
    """

    def __init__(self, browser: Any, address: str, tab: str, screen: Screen) -> None:
        self.screen = screen
        self._context = browser.new_context(
            viewport={"width": screen.width, "height": screen.height},
            device_scale_factor=screen.scale,
            is_mobile=screen.phone,
            has_touch=screen.phone,
            color_scheme="dark" if screen.dark else "light",
            locale=screen.language,
            reduced_motion="reduce",
        )
        self.page = self._context.new_page()
        self.page.set_default_timeout(TIMEOUT_MS)
        self.page.goto(f"{address}/#{tab}")
        self.page.locator("#server[data-state=ready]").wait_for()

    def close(self) -> None:
        """Close the window."""
        self._context.close()

    def picture(self) -> bytes:
        """Return the window as a PNG file; a page that is wider than the window is refused."""
        check_width(self.page, self.screen)
        return self.page.screenshot(animations="disabled", caret="hide")

    def show(self, selector: str, *, space: int = 16) -> None:
        """Scroll so that an element stands at the top of the window, below the tabs."""
        self.page.evaluate(
            """([selector, space]) => {
              const header = document.querySelector("header");
              const fixed = ["sticky", "fixed"].includes(getComputedStyle(header).position);
              const top = document.querySelector(selector).getBoundingClientRect().top;
              scrollBy(0, top - space - (fixed ? header.offsetHeight : 0));
            }""",
            [selector, space],
        )

    def use_documents(self) -> None:
        """Switch the chat to answers from documents."""
        self.page.locator("#chat-documents").check(force=True)

    def chat(self, question: Question) -> None:
        """Send a message, wait for the end of the answer, and check it."""
        turns = self.page.locator("#talk .facts").count()
        self.page.locator("#chat-text").fill(question.text)
        self.page.keyboard.press("Enter")
        self.page.locator("#talk .facts").nth(turns).wait_for()
        check(question, self.page.locator("#talk .theirs > .text").last.inner_text())

    def upload(self, guide: Guide) -> None:
        """Add a file to the documents, and wait until it is indexed."""
        file = {"name": guide.name, "mimeType": "application/pdf", "buffer": guide.pdf()}
        self.page.locator("#files").set_input_files(file)
        self.page.locator("#documents .name", has_text=guide.name).wait_for()
        self.page.locator("#adding").wait_for(state="hidden")

    def search(self, question: Question) -> None:
        """Search, and check that the first passage has the facts."""
        self.page.locator("#search-query").fill(question.text)
        self.page.keyboard.press("Enter")
        first = self.page.locator("#search-hits .hit").first
        first.wait_for()
        check(question, first.inner_text())

    def ask(self, question: Question) -> None:
        """Ask with and without stored state, and check the answer and the quoted sentence."""
        self.page.locator("#ask-question").fill(question.text)
        self.page.keyboard.press("Enter")
        self.answered(question)

    def answered(self, question: Question) -> None:
        """Wait until a question is answered and a sentence quoted, and check both."""
        self.page.locator("#ask-quote:not(:empty)").wait_for()
        self.page.locator("#ask-send").wait_for()
        for answer in ("#ask-answer", "#ask-other-text"):  # cached and fresh
            check(question, self.page.locator(answer).text_content())
        quoted = " ".join(self.page.locator("#ask-quote").inner_text().split())
        if question.quote is not None and question.quote not in quoted:
            raise WrongAnswerError(f"{question.text!r}: the page quotes {quoted!r}")
        doubt = self.page.locator("#ask-support")
        if doubt.is_visible():
            raise WrongAnswerError(f"{question.text!r}: the page says {doubt.inner_text()!r}")

    def embed(self, texts: list[str]) -> None:
        """Embed texts, and wait for the heat map."""
        self.page.locator("#embed-texts").fill("\n".join(texts))
        self.page.locator("#embed-form button[type=submit]").click()
        self.page.locator("#heat .heat").wait_for()

    def open_machine(self) -> None:
        """Open the panel of model and machine, and wait for its second measurement."""
        self.page.locator("#server-model").click()
        self.page.locator("#machine-body dd").first.wait_for()
        self.page.wait_for_timeout(2 * MACHINE_MS)


def check_width(page: Any, screen: Screen) -> None:
    """Raise LayoutError if a page is wider than the screen, which cuts it in the picture."""
    width = page.evaluate("document.documentElement.scrollWidth")
    if width > screen.width:
        raise LayoutError(f"the page is {width} pixels wide, the screen {screen.width}")


def check(question: Question, answer: str) -> None:
    """Raise WrongAnswerError if an answer lacks a fact."""
    missing = question.missing(answer)
    if missing:
        raise WrongAnswerError(f"{question.text!r}: {answer!r} lacks {', '.join(missing)}")
