"""Train the sound projector to predict the words that are spoken (connectionist temporal
classification), without a pass of the decoder.

Usage: python recipes/senses/sound_words.py DATA OUT MINUTES

DATA has speech.jsonl and speech.bin of speech.py. Prints the word error rate of dev, whose voice
speaks no training sentence.
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
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from gritlm import GritLM
from gritlm.lm.media.towers.projector import NO_WORD, Projector, word_runs

_FEATURES = 384
_BATCH = 32
_RATE = 1.5e-3
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789' "
_OTHERS = 1024  # further words in the loss of a batch, which do not occur in it


def labels(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a sentence, without its last mark."""
    plain = " ".join(text.rstrip(" .?!").split())
    return list(tokenizer.encode(" " + plain, add_special_tokens=False))


def distance(found: list[int], wanted: list[int]) -> int:
    """Return the edit distance of two sequences."""
    row = list(range(len(wanted) + 1))
    for i, left in enumerate(found, 1):
        before, row[0] = row[0], i
        for j, right in enumerate(wanted, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return row[-1]


class Speech:
    """Sentences with features and labels."""

    def __init__(self, data: Path, tokenizer: Any) -> None:
        lines = (data / "speech.jsonl").read_text().splitlines()
        self.rows = [json.loads(line) for line in lines]
        size = (data / "speech.bin").stat().st_size // (2 * _FEATURES)
        self._frames: NDArray[np.float16] = np.memmap(
            data / "speech.bin", np.float16, "r", shape=(size, _FEATURES)
        )
        self.rows = [row for row in self.rows if row["first"] + row["frames"] <= size]
        for row in self.rows:
            row["labels"] = labels(tokenizer, row["text"])

    def part(self, name: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["part"] == name]

    def features(self, row: dict[str, Any]) -> torch.Tensor:
        found = self._frames[row["first"] : row["first"] + row["frames"]]
        return torch.from_numpy(found.astype(np.float32))


class Letters(nn.Module):
    """A second loss on the output of the first layer: the letters that are spoken.

    It makes training with few sentences begin several times sooner.
    """

    def __init__(self, projector: Projector) -> None:
        super().__init__()
        self.leave = nn.Linear(projector.config.width, 1 + len(_LETTERS))
        self._found = torch.empty(0)
        projector.layers.layers[0].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        del module, inputs
        self._found = output

    def loss(self, texts: list[str], sizes: list[int]) -> torch.Tensor:
        """Return the loss for the sentences of the last pass."""
        spelled = [[1 + _LETTERS.index(c) for c in t.lower() if c in _LETTERS] for t in texts]
        return F.ctc_loss(
            self.leave(self._found.float()).log_softmax(-1).transpose(0, 1),
            torch.tensor([letter for line in spelled for letter in line]),
            torch.tensor(sizes),
            torch.tensor([len(line) for line in spelled]),
            zero_infinity=True,
        )


def words_loss(
    projector: Projector, hidden_BMW: torch.Tensor, sizes: list[int], wanted: list[list[int]]
) -> Any:
    """Return the loss over the words of a batch and some others.

    Args:
        projector: the projector.
        hidden_BMW: its hidden states, padded.
        sizes: number of frames of each sentence.
        wanted: words of each sentence.
    """
    own = sorted({word for line in wanted for word in line})
    others = torch.randint(1, projector.config.words + 1, (_OTHERS,)).tolist()
    chosen = own + sorted(set(others) - set(own))
    place = {word: 1 + index for index, word in enumerate(chosen)}
    rows = torch.tensor(chosen)
    embeddings_VD = torch.cat([projector.no_word[None], projector.embeddings_VD[rows - 1]])
    bias_V = torch.cat([projector.bias[:1], projector.bias[rows]])
    with torch.autocast("cpu", torch.bfloat16):
        logits = F.linear(projector.leave(hidden_BMW), embeddings_VD, bias_V)
    return F.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1),
        torch.tensor([place[word] for line in wanted for word in line]),
        torch.tensor(sizes),
        torch.tensor([len(line) for line in wanted]),
        blank=NO_WORD,
        zero_infinity=True,
    )


@torch.no_grad()
def error_rate(projector: Projector, speech: Speech, place: dict[int, int], part: str) -> float:
    """Return the share of wrong words of a part."""
    wrong = total = 0
    projector.eval()
    for row in speech.part(part)[:200]:
        logits_MV = projector([speech.features(row)])[0].logits_MV
        found = [int(logits_MV[start].argmax()) for start, _ in word_runs(logits_MV)]
        wrong += distance(found, [place.get(word, -1) for word in row["labels"]])
        total += len(row["labels"])
    projector.train()
    return wrong / total


def main() -> None:
    """Train and write the projector."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    data, out, minutes = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    model = GritLM()
    speech = Speech(data, model.tokenizer)
    train = speech.part("train")
    words = sorted({word for row in train for word in row["labels"]})
    place = {word: 1 + index for index, word in enumerate(words)}
    projector = projector_states.new(
        words,
        model.lm.causal.get_input_embeddings().weight,
        features=_FEATURES,
        stack=2,
        positions=None,
        queries=None,
    )
    letters = Letters(projector)
    trained = [*projector.parameters(), *letters.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=_RATE, weight_decay=0.05)
    chance = random.Random(3)
    started = time.time()
    step = 0
    print(len(train), "sentences,", len(words), "words", flush=True)
    while (done := (time.time() - started) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1, step / 200) * (0.5 + 0.5 * math.cos(math.pi * done))
        batch = chance.sample(train, _BATCH)
        inputs = [masked(speech.features(row), chance) for row in batch]
        sizes = [projector.vectors(len(one)) for one in inputs]
        with torch.autocast("cpu", torch.bfloat16):
            hidden_BMW = projector.hidden(inputs)
        wanted = [[place[word] for word in row["labels"]] for row in batch]
        loss = words_loss(projector, hidden_BMW, sizes, wanted)
        spelled = letters.loss([row["text"] for row in batch], sizes)
        (loss + 0.3 * spelled).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 100 == 0:
            seconds = round(time.time() - started)
            print(
                step, seconds, round(float(loss.detach()), 3), round(float(spelled), 3), flush=True
            )
        if step % 500 == 0:
            print("dev", round(error_rate(projector, speech, place, "dev"), 3), flush=True)
            projector_states.save(projector, out)
    print("dev", round(error_rate(projector, speech, place, "dev"), 3), flush=True)
    projector_states.save(projector, out)


def masked(features_MF: torch.Tensor, chance: random.Random) -> torch.Tensor:
    """Return features with two short spans set to zero."""
    for _ in range(2):
        start = chance.randrange(len(features_MF))
        features_MF[start : start + chance.randrange(12)] = 0
    return features_MF


if __name__ == "__main__":
    main()
