"""Projectors from the features of a frozen tower to the embedding space of a decoder.

Shapes: B images or sounds, M feature vectors of each, F features, W width, Q media tokens of an
image, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

_HEADS = 8


@dataclass(frozen=True)
class ProjectorConfig:
    """Sizes of a projector.

    Attributes:
        features: features of a vector of the tower.
        stack: consecutive vectors that become one.
        positions: maximum number of vectors, after stacking.
        queries: number of media tokens of an image; None for a token for each stacked vector.
        width: width of the layers.
        layers: number of layers.
        hidden: hidden size of the decoder.
        scale: root mean square of the decoder's embeddings.
    """

    features: int
    stack: int
    positions: int
    queries: int | None
    width: int
    layers: int
    hidden: int
    scale: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Projector(nn.Module):
    """A small transformer that turns the features of a tower into media tokens.

    Args:
        config: sizes.
    """

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        stacked = config.features * config.stack
        self.norm = nn.LayerNorm(stacked)
        self.enter = nn.Linear(stacked, width)
        self.places = nn.Parameter(0.02 * torch.randn(config.positions, width))
        self.queries = None
        if config.queries is not None:
            self.queries = nn.Parameter(0.02 * torch.randn(config.queries, width))
        layer = nn.TransformerEncoderLayer(
            width,
            _HEADS,
            2 * width,
            dropout=0.1,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.last_norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, config.hidden)
        nn.init.normal_(self.leave.weight, std=config.scale / math.sqrt(width))
        nn.init.zeros_(self.leave.bias)

    def tokens(self, vectors: int) -> int:
        """Return the number of media tokens for a number of vectors of the tower."""
        return self.config.queries or -(-vectors // self.config.stack)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the states (Q, D) of the media tokens of each image or sound.

        Args:
            features: vectors (M, F) of each.
        """
        stacked = [self._stacked(one_MF) for one_MF in features]
        sizes = torch.tensor([len(one) for one in stacked])
        h_BMW = self.enter(self.norm(pad_sequence(stacked, batch_first=True)))
        h_BMW = h_BMW + self.places[: h_BMW.shape[1]]
        padded_BM = torch.arange(h_BMW.shape[1])[None] >= sizes[:, None]
        if self.queries is not None:
            h_BMW = torch.cat([self.queries.expand(len(stacked), -1, -1), h_BMW], dim=1)
            padded_BM = F.pad(padded_BM, (len(self.queries), 0))
        h_BMW = self.layers(h_BMW, src_key_padding_mask=padded_BM.to(h_BMW.device))
        states_BMD = self.leave(self.last_norm(h_BMW))
        return [
            states_MD[: self.tokens(len(one_MF))]
            for states_MD, one_MF in zip(states_BMD, features, strict=True)
        ]

    def _stacked(self, features_MF: Tensor) -> Tensor:
        stack = self.config.stack
        whole_MF = F.pad(features_MF, (0, 0, 0, -len(features_MF) % stack))
        return whole_MF.reshape(-1, stack * features_MF.shape[1])
