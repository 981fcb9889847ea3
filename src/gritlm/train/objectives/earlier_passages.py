"""Passages of earlier steps as further negatives (cross-batch memory, XBM, arXiv 1912.06798).

Their vectors are those of the step that embedded them. Weights change slowly, so that they are
nearly those of the current weights, and negatives cost no pass of the model.

Shapes: P passages of a batch, E passages of earlier steps, D dimensions.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from gritlm.train.data.collate import Keys


class EarlierPassages:
    """The last passages that were embedded, each of them once.

    Args:
        size: maximum number of passages.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._vector_ED: Tensor | None = None
        self._keys: Keys | None = None

    def __len__(self) -> int:
        return 0 if self._vector_ED is None else len(self._vector_ED)

    def beyond(self, keys: Keys) -> tuple[Tensor | None, Keys]:
        """Return the earlier passages that a batch does not have.

        Args:
            keys: keys of the batch.

        Returns:
            The vectors (E, D) of the earlier passages, None without any; and the keys of the batch
            with those of the earlier passages behind them.
        """
        if self._vector_ED is None or self._keys is None:
            return None, keys
        new_E = ~torch.isin(self._keys.passage_P, keys.passage_P)
        return self._vector_ED[new_E.to(self._vector_ED.device)], _joined(keys, self._keys, new_E)

    def add(self, vector_PD: Tensor, keys: Keys) -> None:
        """Add the passages of a step; the oldest ones beyond the size are dropped.

        Args:
            vector_PD: vectors of the passages.
            keys: keys of the batch.
        """
        earlier_ED, joined = self.beyond(keys)
        last_P = _last_of_each(joined.passage_P[: len(vector_PD)])
        kept_E = torch.arange(len(last_P), len(joined.passage_P))
        # The newest come first, so that the oldest are at the end.
        order_E = torch.cat([last_P.nonzero()[:, 0], kept_E])[: self._size]
        vector_ED = vector_PD if earlier_ED is None else torch.cat([vector_PD, earlier_ED])
        self._vector_ED = vector_ED.detach()[order_E.to(vector_ED.device)]
        self._keys = Keys(
            query_Q=joined.query_Q,
            positive_QM=joined.positive_QM,
            **{name: getattr(joined, name)[order_E] for name in _PASSAGE_KEYS},
        )


_PASSAGE_KEYS = tuple(field.name for field in fields(Keys) if field.name.endswith("_P"))


def _joined(keys: Keys, earlier: Keys, new_E: Tensor) -> Keys:
    """Return the keys of a batch with those of earlier passages behind its own."""
    return Keys(
        query_Q=keys.query_Q,
        positive_QM=keys.positive_QM,
        **{
            name: torch.cat([getattr(keys, name), getattr(earlier, name)[new_E]])
            for name in _PASSAGE_KEYS
        },
    )


def _last_of_each(key_P: Tensor) -> Tensor:
    """Return the mask (P,) of the last place of each key."""
    later_PP = torch.ones(len(key_P), len(key_P), dtype=torch.bool).triu(diagonal=1)
    return ~((key_P[:, None] == key_P) & later_PP).any(dim=1)
