"""Train the image projector to predict the words of captions, without a pass of the decoder.

Usage: python recipes/senses/image_words.py DATA OUT MINUTES

DATA has pictures.jsonl, pictures.npy and vqa_train.npy, and the package easy-vqa in the folder vqa.
The first media tokens of a picture predict its name, the others its topics; a picture of easy-vqa
is named by colour and shape.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from pathlib import Path

import numpy as np
import projector_states
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from gritlm import GritLM
from gritlm.lm.media.towers.projector import NO_WORD

_QUERIES = 8
_BATCH = 128
_RATE = 1e-3
_SHAPES = {"circle", "rectangle", "triangle"}


def captions(data: Path) -> list[tuple[str, int, list[str]]]:
    """Return set, index and captions of each picture to train on."""
    found = []
    for index, line in enumerate((data / "pictures.jsonl").read_text().splitlines()):
        row = json.loads(line)
        if row["part"] == "train":
            found.append(("pictures", index, [row["name"], *row["also"]]))
    for index, (colour, shape) in enumerate(colours_and_shapes(data / "vqa/easy_vqa/data/train")):
        found.append(("vqa_train", index, [f"{colour} {shape}".strip()]))
    return found


def colours_and_shapes(folder: Path) -> list[tuple[str, str]]:
    """Return colour and shape of each picture of easy-vqa, from its questions; empty if unknown."""
    found: dict[int, dict[str, str]] = {}
    for _, answer, picture in json.loads((folder / "questions.json").read_text()):
        if answer not in ("yes", "no"):
            kind = "shape" if answer in _SHAPES else "colour"
            found.setdefault(picture, {})[kind] = answer
    known = [found.get(index, {}) for index in range(max(found) + 1)]
    return [(one.get("colour", ""), one.get("shape", "")) for one in known]


def targets(tokenizer: object, caption: str) -> list[int]:
    """Return the token ids of a caption, as words within a text."""
    ids = tokenizer.encode(" " + caption, add_special_tokens=False)  # type: ignore[attr-defined]
    return list(ids[:_QUERIES])


def main() -> None:
    """Train and write the projector."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    data, out, minutes = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    model = GritLM()
    rows = captions(data)
    ids = {caption: targets(model.tokenizer, caption) for *_, many in rows for caption in many}
    words = sorted({word for many in ids.values() for word in many})
    place = {word: 1 + index for index, word in enumerate(words)}
    features = {name: np.load(data / f"{name}.npy") for name in ("pictures", "vqa_train")}
    projector = projector_states.new(
        words,
        model.lm.causal.get_input_embeddings().weight,
        features=features["pictures"].shape[2],
        stack=1,
        positions=features["pictures"].shape[1],
        queries=_QUERIES,
    )
    optimizer = torch.optim.AdamW(projector.parameters(), lr=_RATE, weight_decay=0.05)
    chance = random.Random(3)
    started = time.time()
    step = 0
    while (done := (time.time() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1, step / 50) * (0.5 + 0.5 * math.cos(math.pi * done))
        batch = chance.sample(rows, _BATCH)
        inputs, wanted = [], []
        for name, index, many in batch:
            inputs.append(_tensor(features[name][index], chance))
            line = [place[word] for word in ids[chance.choice(many)]]
            wanted.append(line + [NO_WORD] * (_QUERIES - len(line)))
        with torch.autocast("cpu", torch.bfloat16):
            logits_BMV = projector.word_logits(projector.hidden(inputs))
        loss = F.cross_entropy(logits_BMV.float().flatten(0, 1), torch.tensor(wanted).flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 20 == 0:
            print(step, round(time.time() - started), round(float(loss.detach()), 3), flush=True)
    projector_states.save(projector, out)


def _tensor(features: NDArray[np.float16], chance: random.Random) -> torch.Tensor:
    """Return features with a random part of the positions set to zero."""
    tensor = torch.from_numpy(features).float()
    if chance.random() < 0.5:
        tensor = tensor * (torch.rand(len(tensor), 1) > 0.15)
    return tensor


if __name__ == "__main__":
    main()
