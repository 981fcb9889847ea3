"""Write tasks with images and sound: names of clip art, questions about shapes, spoken sentences.

Usage: python recipes/evaluation/senses.py OUT [--clipart JSONL ROOT] [--shapes FOLDER]
       [--speech JSONL] [--small]

--clipart takes the file of recipes/senses/pictures.py and the folder that its paths are relative
to, --shapes the folder data/test of the package easy-vqa, --speech the file of
recipes/senses/speech.py or FILE.txt with a sentence a line. Only rows of the part test are used.
--small writes fewer and smaller files, as the samples of the package have them. Every run writes
the same bytes. Speech needs espeak-ng.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import wave
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gritlm.lm.media.files import MediaRules
from gritlm.lm.media.inputs import SoundPart
from gritlm.lm.media.sounds import decode_sound, resampled

RATE = 16_000
VOICE = "en-gb-x-gbclan+f5"  # speaks no training sentence
FULL_SIDE, SMALL_SIDE = 512, 128  # most pixels of the longer side of clip art
FULL_SPEECH, SMALL_SPEECH = 500, 20
SMALL_CLIPART, SMALL_SHAPES, SMALL_QUESTIONS = 60, 40, 4  # questions of each picture

# Clip art that is not in a small set: marks of brands, and a picture whose content is missing.
LEFT_OUT = {
    "coke lower left corner",
    "linux powered",
    "orleans express upper left corner",
    "quake icon",
    "sprint cell phone",
    "duck yellow ii",
}

Row = dict[str, Any]
ABOUT = {
    "Clipart": {
        "type": "ImageText",
        "description": "Clip art and its title",
        "source": "Open Clip Art Library, as Debian's openclipart-png 0.18 has it",
        "licence": "public domain",
    },
    "Shapes": {
        "type": "ImageQA",
        "description": "Questions about a picture of a coloured shape",
        "source": "easy-VQA by Victor Zhou, test set of the package easy-vqa 1.0",
        "licence": "MIT",
    },
    "Speech": {
        "type": "AudioText",
        "description": "Sentences spoken by espeak-ng",
    },
}


def main() -> None:
    """Write the tasks of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--clipart", type=Path, nargs=2)
    parser.add_argument("--shapes", type=Path)
    parser.add_argument("--speech", type=Path)
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    if given.clipart:
        clipart(*given.clipart, given.out / "Clipart", small=given.small)
    if given.shapes:
        shapes(given.shapes, given.out / "Shapes", small=given.small)
    if given.speech:
        speech(given.speech, given.out / "Speech", small=given.small)


def clipart(listed: Path, root: Path, out: Path, *, small: bool) -> None:
    """Write pictures of clip art with their names, on white."""
    found = by_hash(test_rows(listed), lambda row: row["path"])
    side = SMALL_SIDE if small else FULL_SIDE
    rows: list[Row] = []
    seen: set[bytes] = set()
    for row in found:
        if small and (len(rows) == SMALL_CLIPART or row["name"] in LEFT_OUT):
            continue
        picture = on_white(root / row["path"], side=side)
        content = picture.tobytes()
        if small and (content in seen or len(set(content)) == 1):
            continue  # a copy, or a blank page
        seen.add(content)
        file = f"pictures/{len(rows):03}.png"
        save_picture(picture, out / file, palette=small)
        rows.append({"image": file, "name": row["name"]})
    write(out, rows)


def shapes(folder: Path, out: Path, *, small: bool) -> None:
    """Write the pictures of easy-vqa with their questions; a small set has some of each kind."""
    by_picture: dict[int, list[Row]] = {}
    for question, answer, number in json.loads((folder / "questions.json").read_text("utf-8")):
        by_picture.setdefault(number, []).append({"question": question, "answer": answer})
    fewest = SMALL_QUESTIONS if small else 1
    usable = [number for number, asked in by_picture.items() if len(asked) >= fewest]
    numbers = by_hash(usable, str)[: SMALL_SHAPES if small else None]
    rows = []
    for number in numbers:
        file = f"pictures/{number}.png"
        picture = on_white(folder / "images" / f"{number}.png", side=SMALL_SIDE)
        save_picture(picture, out / file, palette=True)
        asked = by_picture[number]
        rows += [{"image": file, **row} for row in (mixed(asked) if small else asked)]
    write(out, rows)


def mixed(asked: Sequence[Row]) -> list[Row]:
    """Return questions of a picture, half of them about shape and colour if it has these."""
    ordered = by_hash(asked, lambda row: row["question"])
    open_ended = [row for row in ordered if row["answer"] not in ("yes", "no")]
    closed = [row for row in ordered if row["answer"] in ("yes", "no")]
    half = SMALL_QUESTIONS // 2
    return [*open_ended[:half], *closed, *open_ended[half:]][:SMALL_QUESTIONS]


def speech(listed: Path, out: Path, *, small: bool) -> None:
    """Write spoken sentences, as 16-bit mono sound of 16 kHz."""
    if listed.suffix == ".txt":
        texts = [line.strip() for line in listed.read_text("utf-8").splitlines() if line.strip()]
        found: list[Row] = [{"text": text, "voice": VOICE} for text in texts]
        origin = {"source": "sentences of this project", "licence": "Apache-2.0"}
    else:
        found = test_rows(listed)
        origin = {
            "source": "SQuAD, query-wellformedness and 2WikiMultihopQA (passages)",
            "licence": "CC BY-SA 4.0",
        }
    rows = []
    for number, row in enumerate(found[: SMALL_SPEECH if small else FULL_SPEECH]):
        file = f"speech/{number:03}.wav"
        save_sound(row["text"], row["voice"], out / file)
        rows.append({"audio": file, "text": row["text"]})
    write(out, rows, **origin)


def test_rows(path: Path) -> list[Row]:
    """Return the rows of the part test."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [row for row in rows if row["part"] == "test"]


def by_hash(items: Iterable[Any], key: Callable[[Any], str]) -> list[Any]:
    """Return items in an order that says nothing and is the same on every machine."""
    return sorted(items, key=lambda item: hashlib.sha256(key(item).encode()).digest())


def on_white(source: Path, *, side: int) -> Image.Image:
    """Return a picture on white, with at most this many pixels on its longer side."""
    with Image.open(source) as opened:
        picture = opened.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def save_picture(picture: Image.Image, target: Path, *, palette: bool) -> None:
    """Write a picture as PNG, with 256 colours or with all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    (picture.quantize(256) if palette else picture).save(target, optimize=True)


def save_sound(text: str, voice: str, target: Path) -> None:
    """Write the sound of a sentence."""
    command = ["espeak-ng", "--stdout", "-v", voice, "--", text]
    spoken = subprocess.run(command, capture_output=True, check=True).stdout
    sound = resampled(decode_sound(SoundPart(spoken, repr(text)), MediaRules()), RATE)
    samples = np.clip(np.round(sound.samples * 32767), -32768, 32767).astype("<i2")
    target.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())


def write(out: Path, rows: Sequence[Row], **origin: str) -> None:
    """Write the rows and the description of a task."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / "test.jsonl").write_text("".join(lines), encoding="utf-8")
    about = {"name": out.name, "half": "senses", **ABOUT[out.name], "language": "eng", **origin}
    toml = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in about.items())
    (out / "task.toml").write_text("".join(toml), encoding="utf-8")


if __name__ == "__main__":
    main()
