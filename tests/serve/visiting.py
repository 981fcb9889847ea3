"""A person at the page: Chromium, a running server, and what may be looked at afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gritlm import GritLM, serve
from gritlm.lm.hub.model_config import FusionSettings, ModelSettings
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from gritlm.serve.stores import StoreAt
from tests import tiny
from tests.serve.conftest import TEXTS, served

PAGE = Path(serve.__file__).with_name("web")
KEY = "sesame"
TIMEOUT_MS = 20_000


@contextmanager
def serving(
    folder: Path,
    *,
    store: bool = False,
    keys: tuple[str, ...] = (),
    names: tuple[str, ...] = ("tiny",),
    more_stores: tuple[str, ...] = (),
) -> Iterator[str]:
    """The address of a server with a tiny model, perhaps with a store of ``TEXTS``."""
    made = tiny.folder(folder / "model", max_position_embeddings=1024)
    ModelSettings(fusion=FusionSettings(cosine=1.0, margin=2.0)).save(made)
    model = GritLM(made, dtype="float32", device="cpu")
    settings = ServerConfig(port=0, names=names, api_keys=keys)
    places = [StoreAt(folder / "store")] if store else []
    places += [StoreAt(folder / name, name=name) for name in more_stores]
    with served(model, settings, Limits(max_num_seqs=2), *places) as live:
        if store:
            documents = [{"id": name, "text": text} for name, text in TEXTS.items()]
            added = live.http.post("/v1/rag/documents", json={"documents": documents})
            added.raise_for_status()
        yield live.url


class Visit:
    """The page, open in a browser of its own.

    Args:
        shots: folder for screenshots.
        may_fail: whether requests may be refused, of which Chromium complains by itself.
        how: of the browser: viewport, color_scheme, ...
    """

    def __init__(
        self,
        browser: Any,
        address: str,
        tab: str,
        shots: Path,
        *,
        may_fail: bool = False,
        **how: Any,
    ) -> None:
        self.address, self._shots, self._may_fail = address, shots, may_fail
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self._bodies: list[tuple[str, Any]] = []
        self._context = browser.new_context(**how)
        self.page = self._context.new_page()
        self.page.set_default_timeout(TIMEOUT_MS)
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._on_request)
        self.page.goto(f"{address}/#{tab}" if tab else address)

    def close(self) -> None:
        self._context.close()

    def shot(self, name: str) -> None:
        """Keep a picture of the whole page."""
        self._shots.mkdir(parents=True, exist_ok=True)
        self.page.evaluate("scrollTo(0, 0)")
        self.page.screenshot(
            path=self._shots / f"{name}.png", full_page=True, animations="disabled"
        )

    def bodies(self, path: str) -> list[Any]:
        """What was sent to a path, in order."""
        return [body for sent_to, body in self._bodies if sent_to == path]

    def settings(self, **values: object) -> None:
        """Set ``length``, ``system`` or ``temperature`` of the chat."""
        self.page.locator("#server-model", has_text="tiny").wait_for()
        self.page.locator("#chat-settings-button").click()
        for name, value in values.items():
            self.page.locator(f"#chat-{name}").fill(str(value))
        self.page.locator("#chat-settings-button").click()

    def say(self, text: str) -> None:
        """Send a message of the chat."""
        self.page.locator("#chat-text").fill(text)
        self.page.keyboard.press("Enter")

    def answered(self, turns: int) -> None:
        """Wait until so many answers have ended."""
        self.page.locator(".facts").nth(turns - 1).wait_for()
        self.page.locator("#chat-send").wait_for()

    def drop(self, name: str, text: str) -> None:
        """Let a file fall on the place for documents."""
        self.page.evaluate(
            """([name, text]) => {
              const files = new DataTransfer();
              files.items.add(new File([text], name));
              document.getElementById("drop").dispatchEvent(
                new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
            }""",
            [name, text],
        )

    def _on_console(self, message: Any) -> None:
        refused = message.text.startswith("Failed to load resource")
        if not (refused and self._may_fail):
            self.complaints.append(message.text)

    def _on_request(self, request: Any) -> None:
        parts = urlsplit(request.url)
        self.hosts.add(parts.netloc)
        if request.post_data:
            self._bodies.append((parts.path, json.loads(request.post_data)))
