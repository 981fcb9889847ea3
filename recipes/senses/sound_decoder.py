"""Train the sound projector through the frozen decoder: sentences that are spoken embed near their
texts.

Usage: python recipes/senses/sound_decoder.py DATA START OUT MINUTES

START is the projector of sound_words.py. Prints recall of sentences among those of dev, whose voice
speaks no training sentence.
"""

from __future__ import annotations

import math
import random
import sys
import time
from pathlib import Path

import projector_states
import torch
from frozen_decoder import Decoder, vectors_of
from sound_words import Speech, error_rate, masked, words_loss
from torch import Tensor
from torch.nn import functional as F

from gritlm.lm.media.towers.projector import (
    Projector,
    mean_of_runs,
    word_runs,
)

_BATCH = 48
_OTHERS = 1000  # other sentences that a step compares with
_RATE = 1e-4
_SCALE = 20.0


def spoken_states(projector: Projector, hidden_BMW: Tensor, sizes: list[int]) -> list[Tensor]:
    """Return the media tokens of sentences; gradients pass through the frames of their words."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits_BMV = projector.word_logits(hidden_BMW)
    found = []
    for logits_MV, hidden_MW, size in zip(logits_BMV, hidden_BMW, sizes, strict=True):
        runs = word_runs(logits_MV[:size].float())
        frames = [frame for start, end in runs for frame in range(start, end)]
        with torch.autocast("cpu", torch.bfloat16):
            spoken_1MW = hidden_MW[torch.tensor(frames)][None]
            states_MD = projector.states(spoken_1MW, projector.word_logits(spoken_1MW))[0]
        place = {frame: index for index, frame in enumerate(frames)}
        moved = [(place[start], place[end - 1] + 1) for start, end in runs]
        found.append(mean_of_runs(states_MD, moved))
    return found


def recall(projector: Projector, decoder: Decoder, speech: Speech, texts_ND: Tensor) -> list[float]:
    """Return recall@1 and @10 of the sentences of dev, and of their sounds."""
    rows = speech.part("dev")
    projector.eval()
    with torch.no_grad():
        vectors = []
        for row in rows:
            inputs = [speech.features(row)]
            sizes = [projector.vectors(len(inputs[0]))]
            vectors.append(decoder.embed(spoken_states(projector, projector.hidden(inputs), sizes)))
    projector.train()
    similar = torch.cat(vectors) @ texts_ND.T
    found = []
    for one in (similar, similar.T):
        rank_N = (one > one.diag()[:, None]).sum(1)
        found += [round(float((rank_N < most).float().mean()), 3) for most in (1, 10)]
    return found


def main() -> None:
    """Train and write the projector."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    data, begin, out, minutes = *map(Path, sys.argv[1:4]), float(sys.argv[4])
    decoder = Decoder()
    speech = Speech(data, decoder.model.tokenizer)
    projector = projector_states.load(begin, decoder.table_VD)
    place = {int(word): 1 + index for index, word in enumerate(projector.words_V)}
    train = speech.part("train")
    texts_ND = torch.from_numpy(
        vectors_of(decoder.model, [row["text"] for row in train], data / "texts.npy")
    )
    dev_ND = torch.from_numpy(
        vectors_of(decoder.model, [row["text"] for row in speech.part("dev")], data / "dev.npy")
    )
    optimizer = torch.optim.AdamW(projector.parameters(), lr=_RATE, weight_decay=0.05)
    chance = random.Random(3)
    print("recall", recall(projector, decoder, speech, dev_ND), flush=True)
    started = time.time()
    step = 0
    while (done := (time.time() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * done))
        chosen = chance.sample(range(len(train)), _BATCH)
        inputs = [masked(speech.features(train[i]), chance) for i in chosen]
        sizes = [projector.vectors(len(one)) for one in inputs]
        with torch.autocast("cpu", torch.bfloat16):
            hidden_BMW = projector.hidden(inputs)
        labels = [[place[word] for word in train[i]["labels"]] for i in chosen]
        words = words_loss(projector, hidden_BMW, sizes, labels)
        vectors_BD = decoder.embed(spoken_states(projector, hidden_BMW, sizes))
        wanted_BD = texts_ND[torch.tensor(chosen)]
        others = sorted(set(chance.sample(range(len(train)), _OTHERS)) - set(chosen))
        known_ND = torch.cat([wanted_BD, texts_ND[torch.tensor(others)]])
        contrast = F.cross_entropy(_SCALE * vectors_BD @ known_ND.T, torch.arange(_BATCH))
        near = (vectors_BD * wanted_BD).sum(1).mean()
        (contrast + 5 * (1 - near) + 0.5 * words).backward()
        torch.nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 10 == 0:
            losses = [round(float(one.detach()), 3) for one in (contrast, near, words)]
            print(step, round(time.time() - started), *losses, flush=True)
        if step % 60 == 0:
            print("recall", recall(projector, decoder, speech, dev_ND), flush=True)
            projector_states.save(projector, out)
    print("recall", recall(projector, decoder, speech, dev_ND), flush=True)
    print("wrong words", round(error_rate(projector, speech, place, "dev"), 3), flush=True)
    projector_states.save(projector, out)


if __name__ == "__main__":
    main()
