"""Train the summary tokens of the image projector, and add them to the projector of image_words.py.

Usage: python recipes/senses/image_summary.py DATA WORDS OUT MINUTES

First a network learns the vector of a picture's name from the mean features, without a pass of the
decoder. Then another one learns tokens whose embedding is near a given vector, through the frozen
decoder, from these vectors and from those of names. Prints recall of names among the pictures of
dev.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import projector_states
import torch
from frozen_decoder import Decoder, caption_of, vectors_of
from torch import Tensor
from torch.nn import functional as F

from gritlm.lm.media.towers.summary import Summary

_TOKENS = 4
_SCALE = 20.0
_STEPS = 700
_BATCH = 256
_OTHERS = 1500  # names of other pictures that a step compares with
_NOISE = 0.02


class Pictures:
    """Mean features of pictures, and the vectors of their names.

    Args:
        data: folder with pictures.jsonl and pictures.npy.
        decoder: the frozen decoder.
    """

    def __init__(self, data: Path, decoder: Decoder) -> None:
        lines = (data / "pictures.jsonl").read_text().splitlines()
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        features = np.load(data / "pictures.npy", mmap_mode="r")
        self.means_NF = torch.from_numpy(
            np.stack([one.astype(np.float32).mean(0) for one in features])
        )
        names = sorted({text for row in self.rows for text in (row["name"], row["also"][0])})
        self.place = {name: index for index, name in enumerate(names)}
        self.names_ND = torch.from_numpy(vectors_of(decoder.model, names, data / "names.npy"))

    def part(self, name: str) -> list[int]:
        return [index for index, row in enumerate(self.rows) if row["part"] == name]

    def recall(self, indices: list[int], vectors_ND: Tensor) -> list[float]:
        """Return recall@1 and @10 of names, then of pictures."""
        own_ND = self.names_ND[torch.tensor([self.place[self.rows[i]["name"]] for i in indices])]
        found = []
        for similar in (vectors_ND @ own_ND.T, own_ND @ vectors_ND.T):
            rank_N = (similar > similar.diag()[:, None]).sum(1)
            found += [round(float((rank_N < most).float().mean()), 3) for most in (1, 10)]
        return found


def learn_vectors(summary: Summary, pictures: Pictures, chance: random.Random) -> None:
    """Train the predicted vectors on the training pictures, in place; keep the moving average."""
    train = pictures.part("train")
    mean_F = pictures.means_NF[torch.tensor(train)].mean(0)
    deviation_F = pictures.means_NF[torch.tensor(train)].std(0) + 1e-3
    features_NF = (pictures.means_NF - mean_F) / deviation_F
    average = copy.deepcopy(summary.guess)
    optimizer = torch.optim.AdamW(summary.guess.parameters(), lr=1e-3, weight_decay=0.1)
    for step in range(_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / (1.15 * _STEPS))
        batch = chance.sample(train, _BATCH)
        labels = [pictures.place[caption_of(pictures.rows[i], chance)] for i in batch]
        others = chance.sample(range(len(pictures.names_ND)), _OTHERS)
        chosen = sorted({*labels, *others})
        position = {name: index for index, name in enumerate(chosen)}
        with torch.autocast("cpu", torch.bfloat16):
            guessed_BD = summary.guess(features_NF[torch.tensor(batch)])
        similar = F.normalize(guessed_BD.float(), dim=-1) @ pictures.names_ND[chosen].T
        wanted = torch.tensor([position[label] for label in labels])
        F.cross_entropy(_SCALE * similar, wanted).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for kept, new in zip(average.parameters(), summary.guess.parameters(), strict=True):
                kept.lerp_(new, 0.02)
    with torch.no_grad():  # the first layer takes over the scaling of the features
        first = average[1]
        first.weight.div_(deviation_F)
        first.bias.sub_(first.weight @ mean_F)
    summary.guess = average


def learn_tokens(
    summary: Summary, pictures: Pictures, decoder: Decoder, minutes: float, chance: random.Random
) -> None:
    """Train the tokens of vectors through the frozen decoder, in place."""
    train, dev = pictures.part("train"), pictures.part("dev")
    summary.guess.eval()
    with torch.no_grad():
        predicted_ND = summary.vectors(pictures.means_NF)
    trained = [*summary.linear.parameters(), *summary.curved.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
    started = time.time()
    step = 0
    while (done := (time.time() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 10) * (1 - 0.9 * done)
        seen_BD = predicted_ND[torch.tensor(chance.sample(train, 48))]
        seen_BD = F.normalize(seen_BD + _NOISE * torch.randn(seen_BD.shape), dim=-1)
        named = chance.sample(range(len(pictures.names_ND)), 48)
        wanted_BD = torch.cat([seen_BD, pictures.names_ND[named]])
        found_BD = decoder.embed(summary.states(wanted_BD))
        near = (found_BD * wanted_BD).sum(1).mean()
        contrast = F.cross_entropy(_SCALE * found_BD @ wanted_BD.T, torch.arange(len(wanted_BD)))
        (contrast + 5 * (1 - near)).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 20 == 0:
            with torch.no_grad():
                vectors_ND = decoder.embed(summary.states(predicted_ND[torch.tensor(dev)]))
            print(step, round(float(near), 3), pictures.recall(dev, vectors_ND), flush=True)


def main() -> None:
    """Train and write the projector with its summary tokens."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    data, begin, out, minutes = *map(Path, sys.argv[1:4]), float(sys.argv[4])
    chance = random.Random(3)
    decoder = Decoder()
    pictures = Pictures(data, decoder)
    projector = projector_states.load(begin, summary=_TOKENS)
    summary = projector.summary
    assert summary is not None
    summary.center_D.copy_(pictures.names_ND.mean(0))
    torch.nn.init.normal_(summary.linear.weight, std=0.005)
    torch.nn.init.zeros_(summary.linear.bias)
    torch.nn.init.zeros_(summary.curved[2].weight)
    torch.nn.init.zeros_(summary.curved[2].bias)
    learn_vectors(summary, pictures, chance)
    summary.guess.eval()
    with torch.no_grad():
        dev = pictures.part("dev")
        direct_ND = summary.vectors(pictures.means_NF[torch.tensor(dev)])
    print("vectors", pictures.recall(dev, direct_ND), flush=True)
    learn_tokens(summary, pictures, decoder, minutes, chance)
    projector_states.save(projector, out)


if __name__ == "__main__":
    main()
