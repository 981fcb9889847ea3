"""Projectors from the features of a frozen tower to the embedding space of a decoder.

A media token is a weighted mean of word embeddings of the decoder, plus a learned difference: the
projector predicts words (or none), as speech recognition and captioning do, and the decoder reads
a mixture of these.

Shapes: B images or sounds, M feature vectors or media tokens of each, F features, W width, Q media
tokens of an image, V words, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from gritlm.lm.media.towers.summary import Summary

NO_WORD = 0  # index of the class "no word"
_HEADS = 8
_KERNEL = 5  # stacked frames of a sound that a vector is made of


@dataclass(frozen=True)
class ProjectorConfig:
    """Sizes of a projector.

    Attributes:
        features: features of a vector of the tower.
        stack: consecutive vectors that become one.
        positions: number of vectors of an image; None for sounds, of any number.
        queries: number of word tokens of an image; None for one for each stacked vector.
        summary: number of summary tokens of an image.
        width: width of the layers.
        layers: number of layers.
        words: number of words of the decoder's vocabulary that are predicted.
        hidden: hidden size of the decoder.
    """

    features: int
    stack: int
    positions: int | None
    queries: int | None
    summary: int
    width: int
    layers: int
    words: int
    hidden: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Outputs of a projector for an image or a sound.

    Attributes:
        logits_MV: logits of no word and of each word, without those of summary tokens.
        states_MD: states for the decoder.
    """

    logits_MV: Tensor
    states_MD: Tensor


class Projector(nn.Module):
    """A small transformer that turns the features of a tower into states for a decoder.

    Args:
        config: sizes.

    Attributes:
        words_V: token ids of the words.
    """

    words_V: Tensor
    embeddings_VD: Tensor

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        stacked = config.features * config.stack
        self.norm = nn.LayerNorm(stacked)
        self.enter: nn.Module
        self.places = None
        self.queries = None
        if config.queries is None or config.positions is None:
            self.enter = nn.Conv1d(stacked, width, _KERNEL, padding=_KERNEL // 2)
        else:
            self.enter = nn.Linear(stacked, width)
            self.places = nn.Parameter(0.02 * torch.randn(config.positions, width))
            self.queries = nn.Parameter(0.02 * torch.randn(config.queries, width))
        options: dict[str, Any] = {"activation": "gelu", "batch_first": True, "norm_first": True}
        self.layers: nn.Module
        if self.queries is None:
            layer = nn.TransformerEncoderLayer(width, _HEADS, 4 * width, **options)
            self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        else:
            reading = nn.TransformerDecoderLayer(width, _HEADS, 4 * width, **options)
            self.layers = nn.TransformerDecoder(reading, config.layers)
        self.last_norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, config.hidden)
        self.no_word = nn.Parameter(torch.zeros(config.hidden))
        self.bias = nn.Parameter(torch.zeros(1 + config.words))
        self.difference = nn.Linear(width, config.hidden)
        nn.init.zeros_(self.difference.weight)
        nn.init.zeros_(self.difference.bias)
        self.register_buffer("words_V", torch.zeros(config.words, dtype=torch.int32))
        self.summary = None
        if config.summary:
            self.summary = Summary(config.features, config.summary, config.hidden)
        embeddings = torch.zeros(config.words, config.hidden)
        self.register_buffer("embeddings_VD", embeddings, persistent=False)

    def use_embeddings(self, embeddings: Tensor) -> None:
        """Take the embeddings of the words from those of the decoder.

        Args:
            embeddings: embeddings of the whole vocabulary.
        """
        chosen = embeddings[self.words_V.long().to(embeddings.device)]
        self.embeddings_VD = chosen.detach().float().to(self.words_V.device)

    def vectors(self, vectors: int) -> int:
        """Return the number of outputs for a number of vectors of the tower."""
        if self.config.queries is not None:
            return self.config.queries + self.config.summary
        return -(-vectors // self.config.stack)

    def forward(self, features: Sequence[Tensor]) -> list[Predictions]:
        """Return the outputs for each image or sound.

        Args:
            features: vectors (M, F) of each.
        """
        hidden_BMW = self.hidden(features)
        logits_BMV = self.word_logits(hidden_BMW)
        states_BMD = self.states(hidden_BMW, logits_BMV)
        if self.summary is not None:
            means_BF = torch.stack([one_MF.mean(0) for one_MF in features])
            summary_BQD = self.summary.states(self.summary.vectors(means_BF))
            states_BMD = torch.cat([states_BMD, summary_BQD], dim=1)
        sizes = [self.vectors(len(one_MF)) for one_MF in features]
        return [
            Predictions(logits_MV[:size], states_MD[:size])
            for logits_MV, states_MD, size in zip(logits_BMV, states_BMD, sizes, strict=True)
        ]

    def hidden(self, features: Sequence[Tensor]) -> Tensor:
        """Return the last hidden states (B, M, W), padded to the longest."""
        stacked = [self.norm(self._stacked(one_MF)) for one_MF in features]
        x_BMF = pad_sequence(stacked, batch_first=True)
        if self.queries is not None:
            queries_BMW = self.queries.expand(len(stacked), -1, -1)
            h_BMW = self.layers(queries_BMW, self.enter(x_BMF) + self.places)
        else:
            sizes = torch.tensor([len(one) for one in stacked])
            padded_BM = torch.arange(x_BMF.shape[1])[None] >= sizes[:, None]
            mask_BM = padded_BM.to(x_BMF.device) if bool(padded_BM.any()) else None
            h_BMW = self.enter(x_BMF.transpose(1, 2)).transpose(1, 2)
            h_BMW = self.layers(h_BMW, src_key_padding_mask=mask_BM)
        return torch.as_tensor(self.last_norm(h_BMW))

    def word_logits(self, hidden_BMW: Tensor) -> Tensor:
        """Return the logits (B, M, 1 + V) of no word and of each word."""
        return F.linear(self.leave(hidden_BMW), self._embeddings(), self.bias)

    def states(self, hidden_BMW: Tensor, logits_BMV: Tensor) -> Tensor:
        """Return the states (B, M, D) of word tokens."""
        return logits_BMV.softmax(-1) @ self._embeddings() + self.difference(hidden_BMW)

    def _embeddings(self) -> Tensor:
        return torch.cat([self.no_word[None], self.embeddings_VD])

    def _stacked(self, features_MF: Tensor) -> Tensor:
        stack = self.config.stack
        whole_MF = F.pad(features_MF, (0, 0, 0, -len(features_MF) % stack))
        return whole_MF.reshape(-1, stack * features_MF.shape[1])


def word_runs(logits_MV: Tensor) -> list[tuple[int, int]]:
    """Return the runs of frames that predict the same word, as first frame and frame after.

    Frames that predict no word separate runs and belong to none, as in connectionist temporal
    classification (Graves et al., 2006). If no frame predicts a word, the frame that is nearest to
    one is the only run.
    """
    found_M = logits_MV.argmax(-1).tolist()
    runs: list[tuple[int, int]] = []
    for index, word in enumerate(found_M):
        if word == NO_WORD:
            continue
        if index and found_M[index - 1] == word:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    if runs:
        return runs
    best = int((logits_MV[:, 1:].amax(-1) - logits_MV[:, NO_WORD]).argmax())
    return [(best, best + 1)]


def mean_of_runs(states_MD: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
    """Return the mean state of each run of frames."""
    return torch.stack([states_MD[start:end].mean(0) for start, end in runs])
