"""Measure trained projectors on the sets that no choice was made on; write a table.

Usage: python recipes/senses/figures.py PICTURES SPEECH IMAGE SOUND

PICTURES is the data folder of image_decoder.py, with vqa_test.npy (features of easy-vqa's test
set); SPEECH that of sound_words.py; IMAGE and SOUND are trained projectors. An answer is right if
the greedy continuation is the answer and nothing else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import projector_states
import torch
from frozen_decoder import Decoder
from sound_decoder import spoken_states
from sound_words import Speech
from torch import Tensor

_SAMPLES = 2000


def interval(values: Any) -> str:
    """Return mean and 95% interval of values of rows, in percent (bootstrap over rows)."""
    rows = np.asarray(values, dtype=np.float64)
    chance = np.random.default_rng(0)
    means = [chance.choice(rows, len(rows)).mean() for _ in range(_SAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{100 * rows.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def recalls(name: str, other: str, similar_NN: Tensor) -> None:
    """Print recall in both directions of pairs in the same order."""
    count = len(similar_NN)
    for words, one in ((f"{name} to {other}", similar_NN), (f"{other} to {name}", similar_NN.T)):
        rank_N = (one > one.diag()[:, None]).sum(1).numpy()
        for most in (1, 10):
            share = interval(rank_N < most)
            print(f"| {words} among {count}, recall@{most} | {share} |", flush=True)


def texts(decoder: Decoder, names: list[str]) -> Tensor:
    return torch.from_numpy(decoder.model.encode_document(names))


@torch.no_grad()
def main() -> None:
    """Print the rows of the table."""
    torch.set_num_threads(1)
    pictures_folder, speech_folder = Path(sys.argv[1]), Path(sys.argv[2])
    decoder = Decoder()
    image, sound = (
        projector_states.load(Path(path), decoder.table_VD).eval() for path in sys.argv[3:5]
    )
    rows = [json.loads(line) for line in (pictures_folder / "pictures.jsonl").open()]
    chosen = [index for index, row in enumerate(rows) if row["part"] == "test"]
    features = np.load(pictures_folder / "pictures.npy", mmap_mode="r")
    found = image([torch.from_numpy(features[i].astype(np.float32)) for i in chosen])
    vectors_ND = decoder.embed([one.states_MD for one in found])
    names_ND = texts(decoder, [rows[i]["name"] for i in chosen])
    recalls("picture", "name", vectors_ND @ names_ND.T)

    speech = Speech(speech_folder, decoder.model.tokenizer)
    spoken = speech.part("test")
    vectors = []
    for row in spoken:
        inputs = [speech.features(row)]
        states = spoken_states(sound, sound.hidden(inputs), [sound.vectors(len(inputs[0]))])
        vectors.append(decoder.embed(states))
    recalls(
        "speech", "sentence", torch.cat(vectors) @ texts(decoder, [r["text"] for r in spoken]).T
    )

    shapes = np.load(pictures_folder / "vqa_test.npy", mmap_mode="r")
    asked: dict[int, list[tuple[str, str]]] = {}
    source = pictures_folder / "vqa/easy_vqa/data/test/questions.json"
    for question, answer, picture in json.loads(source.read_text()):
        asked.setdefault(picture, []).append((question, answer))
    right: list[bool] = []
    for picture, turns in asked.items():
        states = image([torch.from_numpy(shapes[picture].astype(np.float32))])[0].states_MD
        logits_NV, labels = decoder.answer_logits(states, turns)
        same = iter((logits_NV.argmax(-1) == labels).tolist())
        for _, answer in turns:
            count = len(decoder.ids(answer)) + 1
            right.append(sum(next(same) for _ in range(count)) == count)
    print(f"| questions of easy-vqa's test set, {len(right)} | {interval(right)} |")


if __name__ == "__main__":
    main()
