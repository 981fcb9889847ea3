"""Collect named pictures: clip art and emoji, with captions, as JSON lines.

Usage: python recipes/senses/pictures.py CLIPART EMOJI EMOJI_NAMES WORDS OUT

CLIPART is the folder of Debian's package openclipart-png (public domain), unpacked; EMOJI the
folder img/google/64 of the npm package emoji-datasource-google (Apache-2.0); EMOJI_NAMES the file
en/data.json of the npm package emojibase-data (MIT); WORDS a list of English words, such as that
of Debian's package wamerican.

A line has the path of a picture, its name, longer descriptions, and its part: test and dev are 200
pictures of clip art each, whose titles are English and occur once in all of it.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

from PIL import Image

_HELD_OUT = 200
_MOST_PIXELS = 20_000_000
_DULL = re.compile(
    r"theme|icon collection|hash\(|untitled|unknown|no title|clipart by"
    r"|^img|^image|^\d+$|^page|svg",
    re.IGNORECASE,
)


def words_of(text: str) -> str:
    """Return the words of a file name or title, without numbers and marks."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", text)
    words = re.findall(r"[A-Za-z]+", spaced.replace("'s", ""))
    return " ".join(word.lower() for word in words if len(word) > 1)


def clipart(folder: Path) -> list[dict[str, object]]:
    """Return a row for each picture of clip art."""
    rows = []
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as image:
            if image.width * image.height > _MOST_PIXELS:
                continue
            about = {k: v for k, v in image.info.items() if isinstance(v, str)}
        if "GPL" in " ".join(about.values()):
            continue
        title = words_of(about.get("Title", ""))
        file = words_of(re.sub(r"_[a-z]+_[a-z]+_\d*$", "", path.stem)) or words_of(path.stem)
        dull = len(title) < 3 or _DULL.search(about.get("Title", ""))
        name = file if dull else title
        place = [words_of(part) for part in path.relative_to(folder).parts[:-1]]
        topics = " ".join(place[-2:])
        if len(name) < 3 or len(name.split()) > 8:
            name = file or topics
        known = bool(about.get("Title")) and not dull and 1 <= len(title.split()) <= 6
        rows.append(
            {
                "path": str(path),
                "name": name,
                "also": [f"{name}, {topics}", file or name],
                "titled": known,
            }
        )
    return rows


def emoji(folder: Path, names: Path) -> list[dict[str, object]]:
    """Return a row for each emoji, without variants of skin tones."""
    rows = []
    for entry in json.loads(names.read_text(encoding="utf-8")):
        code = entry["hexcode"].lower()
        found = [
            path
            for path in (folder / f"{code}.png", folder / f"{code.replace('-fe0f', '')}.png")
            if path.exists()
        ]
        if found:
            tags = " ".join(entry.get("tags", [])[:4])
            also = [f"{entry['label']}, {tags}"]
            rows.append({"path": str(found[0]), "name": entry["label"], "also": also})
    return rows


def main() -> None:
    """Write the rows, with the part of each."""
    Image.MAX_IMAGE_PIXELS = None  # larger pictures are skipped without being decoded
    clip_folder, emoji_folder, names, words, out = map(Path, sys.argv[1:6])
    english = set(words.read_text(encoding="utf-8").lower().split())
    rows = clipart(clip_folder)
    count = Counter(row["name"] for row in rows)
    unique = [
        index
        for index, row in enumerate(rows)
        if row["titled"]
        and count[row["name"]] == 1
        and english.issuperset(str(row["name"]).split())
    ]
    chosen = random.Random(7).sample(unique, 2 * _HELD_OUT)
    for position, index in enumerate(chosen):
        rows[index]["part"] = "test" if position < _HELD_OUT else "dev"
    rows += emoji(emoji_folder, names)
    with out.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({"part": "train"} | row) + "\n")


if __name__ == "__main__":
    main()
