"""Scenes of the walk through the page, and the pictures that show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from docs.screenshots import pictures
from docs.screenshots.questions import Question, guide, questions, texts_to_embed
from docs.screenshots.visitor import Screen, Visitor

Asked = dict[str, Question]


@dataclass(frozen=True)
class Scene:
    """A view of the page, and the steps to it.

    Attributes:
        tab: tab of the page that is opened.
        screen: screen of the visitor.
        act: steps of the visitor, which check all answers.
    """

    tab: str
    screen: Screen
    act: Callable[[Visitor, Asked], None] = field(repr=False)


def chat(visitor: Visitor, asked: Asked) -> None:
    """Chat without documents, then with them."""
    visitor.chat(asked["chat"])
    visitor.use_documents()
    visitor.chat(asked["chat-documents"])


def search(visitor: Visitor, asked: Asked) -> None:
    """Upload the PDF file, then search."""
    visitor.upload(guide())
    visitor.search(asked["search"])


def ask(visitor: Visitor, asked: Asked) -> None:
    """Ask a question that the example passages answer."""
    visitor.ask(asked["ask"])


def ask_guide(visitor: Visitor, asked: Asked) -> None:
    """Ask a question that the PDF file answers; show the answer and its passage."""
    visitor.ask(asked["ask-guide"])
    visitor.show("#ask-result")


def embed(visitor: Visitor, _: Asked) -> None:
    """Compare texts; show the heat map and the map."""
    visitor.embed(texts_to_embed())
    visitor.show("#embed-result")


def machine(visitor: Visitor, _: Asked) -> None:
    """Open the panel of model and machine."""
    visitor.open_machine()


DESKTOP = Screen(1200, 900)
DARK = Screen(1200, 900, dark=True)
CHINESE = Screen(1200, 900, language="zh-CN")
PHONE = Screen(390, 844, phone=True)
PHONE_DARK = Screen(390, 844, phone=True, dark=True)

# The scenes of one picture stand next to each other.
PICTURES = {
    "page-search.png": [Scene("search", DESKTOP, search)],
    "page-chat.png": [Scene("chat", DESKTOP, chat)],
    "page-ask.png": [Scene("ask", DESKTOP, ask)],
    "page-ask-zh.png": [Scene("ask", CHINESE, ask)],
    "page-ask-dark.png": [Scene("ask", DARK, ask_guide)],
    "page-embed.png": [Scene("embed", DESKTOP, embed)],
    "page-machine.png": [Scene("chat", DESKTOP, machine)],
    "page-phone.png": [Scene("ask", PHONE, ask_guide), Scene("chat", PHONE_DARK, chat)],
}


def take(browser: Any, address: str, name: str) -> None:
    """Take one picture and write it.

    Raises:
        WrongAnswerError: an answer in the picture lacks a fact; no file is written.
    """
    pictures.save(name, [view(browser, address, scene) for scene in PICTURES[name]])


def view(browser: Any, address: str, scene: Scene) -> bytes:
    """Act a scene, and return its last view as a PNG file."""
    visitor = Visitor(browser, address, scene.tab, scene.screen)
    try:
        scene.act(visitor, questions())
        return visitor.picture()
    finally:
        visitor.close()


def size(name: str) -> tuple[int, int]:
    """Return width and height of a picture in pixels."""
    screens = [scene.screen for scene in PICTURES[name]]
    gaps = pictures.GAP * (len(screens) - 1)
    return sum(each.pixels[0] for each in screens) + gaps, max(each.pixels[1] for each in screens)
