"""Files of the pictures: small PNG files, and the record of how they were made."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from hashlib import sha256

from docs.screenshots.questions import ROOT
from PIL import Image

FOLDER = ROOT / "docs" / "images"
RECORD = FOLDER / "screenshots.json"
PAGE = ROOT / "src" / "gritlm" / "serve" / "web"
MOST_BYTES = 150_000
COLOURS = 256
GAP = 30  # pixels between the views of one picture


class SizeError(Exception):
    """A picture has more bytes than a document should load."""


def save(name: str, views: Sequence[bytes]) -> None:
    """Write screenshots next to each other as one picture with a palette of 256 colours.

    Raises:
        SizeError: the file would have more than ``MOST_BYTES``.
    """
    written = io.BytesIO()
    reduced(joined([opened(view) for view in views])).save(written, "PNG", optimize=True)
    if written.tell() > MOST_BYTES:
        raise SizeError(f"{name} has {written.tell()} bytes, more than {MOST_BYTES}; show less")
    (FOLDER / name).write_bytes(written.getvalue())


def opened(png: bytes) -> Image.Image:
    """Return a screenshot without transparency."""
    return Image.open(io.BytesIO(png)).convert("RGB")


def joined(views: Sequence[Image.Image]) -> Image.Image:
    """Return pictures next to each other, with gaps between them."""
    width = sum(view.width for view in views) + GAP * (len(views) - 1)
    picture = Image.new("RGB", (width, max(view.height for view in views)), "white")
    left = 0
    for view in views:
        picture.paste(view, (left, 0))
        left += view.width + GAP
    return picture


def reduced(picture: Image.Image) -> Image.Image:
    """Return a picture with a palette. Text and areas of one colour need no dithering."""
    return picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def page_digest() -> str:
    """Return a hash of the files of the page, those of the API's page aside."""
    content = sha256()
    for path in [PAGE / "index.html", *sorted((PAGE / "static").rglob("*.*"))]:
        content.update(path.relative_to(PAGE).as_posix().encode() + b"\0")
        content.update(path.read_bytes())
    return content.hexdigest()


def record() -> dict[str, dict[str, str]]:
    """Return the hashes of page and questions of each picture, by its name."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}


def note(name: str, questions: str) -> None:
    """Record that a picture shows the present page.

    Args:
        name: name of the picture.
        questions: hash of the questions.
    """
    made = record() | {name: {"page": page_digest(), "questions": questions}}
    RECORD.write_text(json.dumps(made, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def stale() -> list[str]:
    """Return the names of the pictures that show an older form of the page."""
    now = page_digest()
    return [name for name, made in record().items() if made["page"] != now]
