"""Tasks with images and sound, as the recipe writes them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gritlm.evaluation.tasks import discovery
from gritlm.evaluation.tasks.task import Task

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "evaluation" / "senses.py"


def run(*words: str | Path) -> None:
    subprocess.run([sys.executable, RECIPE, *words], check=True)


def rows(task: Task) -> list[dict]:
    lines = (task.folder / "test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures, two of them of the part test, half of them transparent."""
    listed = []
    for number, part in enumerate(("test", "train", "test")):
        pixels = np.zeros((300, 800, 4), dtype=np.uint8)
        pixels[:, 400:] = (200, 0, 10 * number, 255)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        listed.append({"part": part, "path": f"{number}.png", "name": f"name {number}"})
    path = tmp_path / "pictures.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in listed), encoding="utf-8")
    return path


def test_clip_art_is_on_white_and_of_the_part_test(tmp_path: Path, pictures: Path):
    sides = {}
    for name, more in (("full", ()), ("small", ("--small",))):
        out = tmp_path / "out" / name
        run(out, "--clipart", pictures, tmp_path, *more)
        (task,) = discovery.local(out)
        assert (task.name, task.type, task.licence) == ("Clipart", "ImageText", "public domain")
        found = rows(task)
        assert {row["name"] for row in found} == {"name 0", "name 2"}
        with Image.open(task.folder / found[0]["image"]) as image:
            sides[name] = image.size
            picture = image.convert("RGB")
        assert picture.getpixel((3, 3)) == (255, 255, 255)
        assert picture.getpixel((sides[name][0] - 3, 3))[:2] == (200, 0)
    assert sides == {"full": (512, 192), "small": (128, 48)}


def test_a_small_set_has_no_copies_blank_pictures_or_brands(tmp_path: Path, pictures: Path):
    Image.new("RGBA", (90, 90)).save(tmp_path / "blank.png")
    listed = pictures.read_text(encoding="utf-8")
    for path, name in (("0.png", "copy"), ("blank.png", "nothing"), ("1.png", "quake icon")):
        listed += json.dumps({"part": "test", "path": path, "name": name}) + "\n"
    pictures.write_text(listed, encoding="utf-8")
    run(tmp_path / "full", "--clipart", pictures, tmp_path)
    run(tmp_path / "small", "--clipart", pictures, tmp_path, "--small")
    full, small = (rows(discovery.local(tmp_path / name)[0]) for name in ("full", "small"))
    assert len(full) == 5
    names = {row["name"] for row in small}
    assert len(small) == len(names) == 2
    assert "name 2" in names
    assert names & {"name 0", "copy"}


def test_questions_keep_their_pictures(tmp_path: Path):
    folder = tmp_path / "shapes"
    (folder / "images").mkdir(parents=True)
    asked = []
    for number in range(3):
        Image.new("RGB", (64, 64), (0, 80 * number, 0)).save(folder / f"images/{number}.png")
        asked += [[f"is it {word}?", "yes", number] for word in ("a", "b", "c")]
        asked += [["what is it?", f"thing {number}", number]]
    (folder / "questions.json").write_text(json.dumps(asked[:-1]), encoding="utf-8")
    run(tmp_path / "full", "--shapes", folder)
    run(tmp_path / "small", "--shapes", folder, "--small")
    full, small = (discovery.local(tmp_path / name)[0] for name in ("full", "small"))
    assert len(rows(full)) == 11
    assert len(rows(small)) == 8  # the third picture has too few questions
    for row in rows(full):
        if row["question"] == "what is it?":
            number = int(row["answer"].split()[1])
            with Image.open(full.folder / row["image"]) as image:
                assert image.convert("RGB").getpixel((9, 9)) == (0, 80 * number, 0)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_sentences_are_spoken(tmp_path: Path):
    listed = tmp_path / "sentences.txt"
    listed.write_text("It rains.\n\nThe museum opens on Monday.\n", encoding="utf-8")
    run(tmp_path / "out", "--speech", listed)
    (task,) = discovery.local(tmp_path / "out")
    assert [row["text"] for row in rows(task)] == ["It rains.", "The museum opens on Monday."]
    seconds = []
    for row in rows(task):
        with wave.open(str(task.folder / row["audio"])) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
            seconds.append(file.getnframes() / 16000)
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert np.abs(samples).max() > 3000
    assert 0.3 < seconds[0] < seconds[1] < 5
