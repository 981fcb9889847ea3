"""Short moving pictures: a PDF file is uploaded, and a question about it answered."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

from docs.screenshots import pictures
from docs.screenshots.questions import guide, questions
from docs.screenshots.visitor import Screen, Visitor
from PIL import Image

WALKS = {
    "page-walk.webp": Screen(1000, 760),
    "page-walk-zh.webp": Screen(1000, 760, language="zh-CN"),
}
MOST_BYTES = 1_000_000
WORD_MS = 180


@dataclass
class Film:
    """Views of the page in order, and how long each is shown.

    Attributes:
        visitor: person at the page.
        views: pictures of the window.
        times_ms: time of each picture in milliseconds.
    """

    visitor: Visitor
    views: list[Image.Image] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)

    def shoot(self, time_ms: int) -> None:
        """Add the present view."""
        self.views.append(pictures.opened(self.visitor.picture()))
        self.times_ms.append(time_ms)

    def save(self, name: str) -> None:
        """Write the views as an animated WebP file.

        Args:
            name: name of the file.

        Raises:
            SizeError: the file would have more than ``MOST_BYTES``.
        """
        written = io.BytesIO()
        first, *rest = self.views
        times = {"duration": self.times_ms, "loop": 0}
        first.save(
            written, "WEBP", save_all=True, append_images=rest, quality=70, method=6, **times
        )
        if written.tell() > MOST_BYTES:
            raise pictures.SizeError(f"{name} has {written.tell()} bytes, more than {MOST_BYTES}")
        (pictures.FOLDER / name).write_bytes(written.getvalue())


def take_walk(browser: Any, address: str, name: str) -> None:
    """Walk through the page and write a moving picture.

    Args:
        browser: Chromium.
        address: address of the server, whose store does not have the PDF file.
        name: name of the picture.

    Raises:
        WrongAnswerError: the answer or the quoted sentence is wrong; no file is written.
    """
    visitor = Visitor(browser, address, "search", WALKS[name])
    try:
        film = Film(visitor)
        upload(film)
        ask(film)
        film.save(name)
    finally:
        visitor.close()


def upload(film: Film) -> None:
    """Show the documents before and after the upload."""
    film.visitor.page.locator("#documents .name").first.wait_for()
    film.shoot(1500)
    film.visitor.upload(guide())
    film.shoot(2500)


def ask(film: Film) -> None:
    """Show the question word by word, then the answer, its cost and its passage."""
    page, question = film.visitor.page, questions()["ask-guide"]
    page.locator("#tab-ask").click()
    film.shoot(800)
    page.locator("#ask-question").click()
    for word in question.text.split(" "):
        page.keyboard.type(f"{word} ")
        film.shoot(WORD_MS)
    page.keyboard.press("Enter")
    page.locator("#ask-answer:not(:empty)").wait_for()
    film.shoot(1000)
    film.visitor.answered(question)
    film.shoot(4000)
    film.visitor.show("#ask-result")
    film.shoot(5000)
