"""Make the screenshots of the web page, from a real server with the default model.

Usage: python -m docs.screenshots.make [--check] [NAME ...]

Without names all pictures are made. A picture with a wrong answer is not written. ``--check``
prints the pictures that show an older form of the page, and makes none.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docs.screenshots import pictures
from docs.screenshots.questions import digest, guide
from docs.screenshots.scenes import PICTURES, take
from docs.screenshots.server import StartError, answer_once, remove, running_server, upload
from docs.screenshots.visitor import (
    BrowserError,
    LayoutError,
    WrongAnswerError,
    check_fonts,
    chromium,
)
from docs.screenshots.walk import WALKS, take_walk

ERRORS = (StartError, BrowserError, LayoutError, WrongAnswerError, pictures.SizeError)
NAMES = [*PICTURES, *WALKS]
UPLOADING = {"page-search.png", *WALKS}  # their visitors upload the PDF file


def main(arguments: Sequence[str]) -> int:
    """Make pictures, or check them; return the exit status."""
    for name in pictures.stale():
        print(f"{name} shows an older form of the page: make screenshots", file=sys.stderr)
    if "--check" in arguments:
        return 0
    unknown = [name for name in arguments if name not in NAMES]
    if unknown:
        known = ", ".join(NAMES)
        print(f"no picture is named {', '.join(unknown)}; the names are {known}", file=sys.stderr)
        return 2
    try:
        make(arguments or NAMES)
    except ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def make(names: Sequence[str]) -> None:
    """Make pictures one after the other, and note each in the record when it is written."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        check_fonts(browser)
        with running_server(Path(folder)) as address:
            answer_once(address)
            make_from(browser, address, names)


def make_from(browser: Any, address: str, names: Sequence[str]) -> None:
    """Make pictures from a server with the example passages."""
    for name in names:
        if name in UPLOADING:
            remove(address, guide().name)
        else:
            upload(address, guide().name, guide().pdf())
        if name in WALKS:
            take_walk(browser, address, name)
        else:
            take(browser, address, name)
        pictures.note(name, digest())
        print(f"docs/images/{name}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
