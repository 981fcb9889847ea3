"""Train the image projector through the frozen decoder: to embed pictures near their names, to name
them, and to answer questions about pictures of easy-vqa.

Usage: python recipes/senses/image_decoder.py DATA START OUT MINUTES

START is the projector of image_words.py. Prints recall of names among the pictures of dev, and the
share of right answers for 400 questions of training pictures that are kept apart.
"""

from __future__ import annotations

import json
import math
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

from gritlm.lm.media.towers.projector import Projector

_PICTURES = 64  # of a step of embedding
_QUESTION_PICTURES = 8  # of a step of questions
_QUESTIONS = 6  # of a picture
_NAMED = 5  # pictures of a step that are named in a chat
_RATE = 3e-4
_SCALE = 20.0
_APART = 100  # pictures of easy-vqa's training set that are not trained on
_NAMING = (
    "What is in the picture?",
    "What is this?",
    "What does the picture show?",
    "What do you see?",
    "Describe the picture.",
)


def main() -> None:
    """Train and write the projector."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    data, begin, out, minutes = *map(Path, sys.argv[1:4]), float(sys.argv[4])
    decoder = Decoder()
    projector = projector_states.load(begin, decoder.table_VD)
    rows = [json.loads(line) for line in (data / "pictures.jsonl").read_text().splitlines()]
    train = [index for index, row in enumerate(rows) if row["part"] == "train"]
    dev = [index for index, row in enumerate(rows) if row["part"] == "dev"]
    pictures = np.load(data / "pictures.npy")
    shapes = np.load(data / "vqa_train.npy")
    names = sorted({text for row in rows for text in (row["name"], row["also"][0])})
    place = {name: index for index, name in enumerate(names)}
    names_ND = torch.from_numpy(vectors_of(decoder.model, names, data / "names.npy"))
    questions: dict[int, list[tuple[str, str]]] = {}
    for question, answer, picture in json.loads(
        (data / "vqa/easy_vqa/data/train/questions.json").read_text()
    ):
        questions.setdefault(picture, []).append((question, answer))
    asked = sorted(questions)[:-_APART]
    apart = [(i, turn) for i in sorted(questions)[-_APART:] for turn in questions[i][:4]]
    summary = projector.summary
    means_NF = torch.from_numpy(np.stack([one.astype(np.float32).mean(0) for one in pictures]))
    optimizer = torch.optim.AdamW(projector.parameters(), lr=_RATE, weight_decay=0.05)
    chance = random.Random(3)
    started = time.time()
    step = 0
    while (done := (time.time() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * done))
        batch = chance.sample(train, _PICTURES)
        texts = [caption_of(rows[i], chance) for i in batch]
        states = _states(projector, [pictures[i] for i in batch])
        vectors_BD = decoder.embed(states)
        similar_BN = _SCALE * vectors_BD @ names_ND.T
        labels = torch.tensor([place[text] for text in texts])
        with torch.no_grad():
            projector.eval()
            wanted_BD = summary.vectors(means_NF[torch.tensor(batch)])
            projector.train()
        near = 1 - (vectors_BD * wanted_BD).sum(1).mean()
        embedding = F.cross_entropy(similar_BN, labels) + 5 * near
        guessed = chance.sample(train, 256)
        guesses = summary.vectors(means_NF[torch.tensor(guessed)])
        direct = F.cross_entropy(
            _SCALE * guesses @ names_ND.T,
            torch.tensor([place[caption_of(rows[i], chance)] for i in guessed]),
        )
        named = [
            decoder.answer_logits(states[k], [(chance.choice(_NAMING), rows[batch[k]]["name"])])
            for k in range(_NAMED)
        ]
        naming = _cross_entropy(named)
        chosen = chance.sample(asked, _QUESTION_PICTURES)
        found = _states(projector, [shapes[i] for i in chosen])
        answered = [
            decoder.answer_logits(
                found[k], chance.sample(questions[i], min(_QUESTIONS, len(questions[i])))
            )
            for k, i in enumerate(chosen)
        ]
        answering = _cross_entropy(answered)
        (embedding + 0.2 * naming + answering + 0.3 * direct).backward()
        torch.nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 5 == 0:
            losses = [
                round(float(loss.detach()), 3)
                for loss in (embedding, near, naming, answering, direct)
            ]
            print(step, round(time.time() - started), *losses, flush=True)
        if step % 40 == 0:
            _report(projector, decoder, pictures, rows, dev, names_ND, place, shapes, apart)
            projector_states.save(projector, out)
    _report(projector, decoder, pictures, rows, dev, names_ND, place, shapes, apart)
    projector_states.save(projector, out)


def _cross_entropy(found: list[tuple[Tensor, Tensor]]) -> Tensor:
    return F.cross_entropy(torch.cat([a for a, _ in found]), torch.cat([b for _, b in found]))


def _states(projector: Projector, features: list[Any]) -> Tensor:
    tensors = [torch.from_numpy(one).float() for one in features]
    if projector.training:
        tensors = [
            one * (torch.rand(len(one), 1) > 0.15) if torch.rand(()) < 0.5 else one
            for one in tensors
        ]
    return torch.stack([one.states_MD for one in projector(tensors)])


@torch.no_grad()
def _report(
    projector: Projector,
    decoder: Decoder,
    pictures: Any,
    rows: list[dict[str, Any]],
    dev: list[int],
    names_ND: Tensor,
    place: dict[str, int],
    shapes: Any,
    apart: list[tuple[int, tuple[str, str]]],
) -> None:
    projector.eval()
    vectors_BD = decoder.embed(_states(projector, [pictures[i] for i in dev]))
    own_BD = names_ND[torch.tensor([place[rows[i]["name"]] for i in dev])]
    for similar in (vectors_BD @ own_BD.T, own_BD @ vectors_BD.T):
        rank = (similar > similar.diag()[:, None]).sum(1)
        print("recall", *(round(float((rank < k).float().mean()), 3) for k in (1, 10)))
    right = 0
    for index, turn in apart:
        states = _states(projector, [shapes[index]])
        logits_NV, labels = decoder.answer_logits(states[0], [turn])
        right += bool((logits_NV.argmax(-1) == labels).all())
    print("answers", round(right / len(apart), 3), flush=True)
    projector.train()


if __name__ == "__main__":
    main()
