"""Summary tokens of an image: the vector that its embedding should have, as states for the decoder.

A small network predicts that vector from the mean of the features. A second one turns any vector
of the embedding space into tokens whose embedding is near it; it learns that from texts too.

Shapes: B images, F features, D hidden size and size of the vectors, Q summary tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WIDTH = 1024
_INNER = 768


class Summary(nn.Module):
    """Predicted vectors, and tokens of vectors.

    Args:
        features: features of a position of the tower.
        tokens: number of summary tokens.
        hidden: hidden size of the decoder.
    """

    center_D: Tensor

    def __init__(self, features: int, tokens: int, hidden: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.guess = nn.Sequential(
            nn.Dropout(0.3),
            nn.Linear(features, _WIDTH),
            nn.GELU(),
            nn.Dropout(0.5),
            nn.Linear(_WIDTH, hidden),
        )
        self.linear = nn.Linear(hidden, tokens * hidden)
        self.curved = nn.Sequential(
            nn.Linear(hidden, _INNER), nn.GELU(), nn.Linear(_INNER, tokens * hidden)
        )
        self.register_buffer("center_D", torch.zeros(hidden))  # mean vector of texts

    def vectors(self, features_BF: Tensor) -> Tensor:
        """Return the predicted normalised vectors (B, D).

        Args:
            features_BF: mean features of the positions of an image.
        """
        return F.normalize(self.guess(features_BF), dim=-1)

    def states(self, vectors_BD: Tensor) -> Tensor:
        """Return the tokens (B, Q, D) of normalised vectors."""
        moved_BD = F.normalize(vectors_BD - self.center_D, dim=-1) * vectors_BD.shape[-1] ** 0.5
        tokens = self.linear(moved_BD) + self.curved(moved_BD)
        return tokens.unflatten(-1, (self.tokens, -1))
