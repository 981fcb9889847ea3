"""Write the Chinese drawings of the site: the English ones with their words from a table."""

from __future__ import annotations

import json
import re
from html import escape, unescape
from pathlib import Path

WORDS = Path(__file__).with_name("drawings.zh.json")
# Texts that stay as they are: names of options, and sentences that the model reads and writes.
KEPT = {"token", "joint", "The", "bank", "of", "the", "river"}
KEPT |= {"The library opens", "at nine ...", "At nine."}
_TEXT = re.compile(r"(<(?:text|title|desc)\b[^>]*>)([^<]+)(?=</)")


def write_chinese(folder: Path) -> None:
    """Write ``NAME.zh.svg`` next to each ``NAME.svg``, which the site shows on Chinese pages.

    Args:
        folder: folder of the images of the site.

    Raises:
        SystemExit: a text of a drawing is not in the table.
    """
    words = json.loads(WORDS.read_text(encoding="utf-8"))
    for path in sorted(folder.glob("*.svg")):
        if not path.name.endswith(".zh.svg"):
            text = chinese(path.read_text(encoding="utf-8"), words, path.name)
            path.with_suffix(".zh.svg").write_text(text, encoding="utf-8")


def chinese(svg: str, words: dict[str, str], name: str) -> str:
    """Return a drawing with its texts in Chinese.

    Args:
        svg: the English drawing.
        words: Chinese text for each English one.
        name: file name, for the message.

    Raises:
        SystemExit: a text is not in the table.
    """

    def replaced(found: re.Match[str]) -> str:
        tag, english = found[1], unescape(found[2])
        if english in KEPT or not re.search("[a-zA-Z]", english):
            return found[0]
        if english not in words:
            raise SystemExit(f"{name}: {english!r} is not in {WORDS.name}; add its Chinese text")
        return tag + escape(words[english], quote=False)

    return _TEXT.sub(replaced, svg)
