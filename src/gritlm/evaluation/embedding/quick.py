"""Classification of mteb with its labels in memory, with the same scores.

mteb reads the labels one by one from the table, for every score of every classifier, which takes
minutes for a few thousand rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from mteb.abstasks.classification import AbsTaskClassification


class QuickClassification(AbsTaskClassification):
    """Classification task of mteb that reads the labels of a table once."""

    def _undersample_data(self, dataset: Any, *args: Any, **options: Any) -> Any:
        return super()._undersample_data(_InMemory(dataset), *args, **options)

    def _calculate_scores(self, y_test: Any, y_pred: Any) -> Any:
        return super()._calculate_scores(np.asarray(y_test[:]), y_pred)


class _InMemory:
    """A table whose columns are lists."""

    def __init__(self, table: Dataset) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, column: str) -> list[Any]:
        return self.table[column][:]

    def select(self, rows: list[int]) -> Dataset:
        return self.table.select(rows)
