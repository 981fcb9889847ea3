"""Speak sentences with espeak-ng and compute the features of the sound tower.

Usage: python recipes/senses/speech.py TOWERS DATA OUT

DATA is the folder of the data sets nqg-squad-sentences, query-wellformedness and twowiki-corpus
(all CC BY-SA). Writes OUT/speech.npy (all frames (N, F) in float16), and OUT/speech.jsonl with
text, voice, part, first frame and number of frames of each sentence. The 500 sentences of the part
test and the 200 of dev are spoken by a voice that speaks no training sentence.
"""

from __future__ import annotations

import io
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from gritlm.lm.media.files import MediaRules
from gritlm.lm.media.inputs import SoundPart
from gritlm.lm.media.sounds import decode_sound, resampled
from gritlm.lm.media.towers import published, whisper

_PARTS = {"test": 500, "dev": 200}
_TRAIN = 24_000
_MOST_WORDS = 14
_ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029")
_VARIANTS = ("", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+f1", "+f2", "+f3", "+f4")
_HELD_OUT_VOICE = "en-gb-x-gbclan+f5"


def sentences(data: Path) -> list[str]:
    """Return sentences of 4 to 14 words, each once, in a fixed random order."""
    found: list[str] = []
    for path in sorted((data / "nqg-squad-sentences").rglob("tgt-*.txt")):
        found += [_joined(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for path in sorted((data / "query-wellformedness").glob("*.tsv")):
        for line in path.read_text(encoding="utf-8").splitlines():
            rating, _, text = line.partition("\t")
            found.append(text if _is_number(rating) else rating)
    for path in sorted((data / "twowiki-corpus").rglob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8")):
            text = row.get("text", "") if isinstance(row, dict) else ""
            found += re.split(r"(?<=[.!?]) +", text)
    kept = {}
    for text in found:
        clean = " ".join(text.split())
        words = clean.split()
        if 4 <= len(words) <= _MOST_WORDS and re.fullmatch(r"[A-Za-z0-9 ,.?!'\-]+", clean):
            kept.setdefault(re.sub(r"\W+", " ", clean.lower()).strip(), clean)
    texts = sorted(kept.values())
    random.Random(11).shuffle(texts)
    return texts


def _joined(line: str) -> str:
    return re.sub(r" (?=[,.?!']|n't)", "", line.strip())


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9.]+", text))


def spoken(text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """Return the samples of a sentence at 16 kHz."""
    command = ["espeak-ng", "--stdout", "-v", voice, "-s", str(speed), "-p", str(pitch), "--", text]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    sound = decode_sound(SoundPart(io.BytesIO(wav).getvalue(), "speech"), MediaRules())
    return resampled(sound, whisper.RATE).samples


def main() -> None:
    """Speak the sentences and write their features."""
    torch.set_num_threads(1)
    towers, data, out = map(Path, sys.argv[1:4])
    _, tower = published.towers(towers)
    chance = random.Random(5)
    texts = sentences(data)
    parts = [part for part, count in _PARTS.items() for _ in range(count)]
    first = 0
    with (out / "speech.bin").open("wb") as frames, (out / "speech.jsonl").open("w") as about:
        for index, text in enumerate(texts[: len(parts) + _TRAIN]):
            part = parts[index] if index < len(parts) else "train"
            voice = chance.choice(_ACCENTS) + chance.choice(_VARIANTS)
            if part != "train":
                voice = _HELD_OUT_VOICE
            speed, pitch = chance.randint(130, 190), chance.randint(35, 65)
            features = tower.read(spoken(text, voice, speed, pitch)).numpy().astype(np.float16)
            frames.write(features.tobytes())
            row = {"text": text, "voice": voice, "part": part, "first": first}
            about.write(json.dumps(row | {"frames": len(features)}) + "\n")
            about.flush()
            first += len(features)


if __name__ == "__main__":
    main()
