"""Confidence intervals of scores and of differences, by the paired bootstrap (Efron 1979).

Shapes: R resamples, N rows, K distinct values of the rows. The resampled rows depend only on the
task and its number of rows. All models are therefore resampled alike, and differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from gritlm.evaluation.results import TaskResult

RESAMPLES = 1000
LEVEL = 0.95
_CHUNK = 4_000_000  # most elements of a matrix in memory

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference of two scores, with its confidence interval.

    Attributes:
        value: the score or difference itself.
        low, high: bounds of the 95% interval; None if the scores of single rows are unknown (for
            a mean: those of at least one of its tasks).
    """

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def differs(self) -> bool:
        """Whether the interval is known and excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class BootstrapSample:
    """A result with its score on each of R resamples of its rows.

    Attributes:
        result: the result of a task.
        scores_R: scores in percent; None if the scores of single rows are unknown or there is
            only a single row.
    """

    result: TaskResult
    scores_R: Floats | None


def resampled(result: TaskResult) -> BootstrapSample:
    """Resample the rows of a result; all other functions take the sample that this returns."""
    if result.pairs is not None and len(result.pairs) > 1:
        pairs_N2 = np.asarray(result.pairs, dtype=np.float64)
        metric = average_precision if result.kind == "PairClassification" else spearman
        parts = [metric(pairs_N2, counts) for counts in _draw_counts(result.task, len(pairs_N2))]
    elif result.items is not None and len(result.items) > 1:
        items_N = np.asarray(result.items, dtype=np.float64)
        draws = _draw_counts(result.task, len(items_N))
        parts = [counts @ items_N / len(items_N) for counts in draws]
    else:
        return BootstrapSample(result, None)
    return BootstrapSample(result, 100 * np.concatenate(parts))


def score(one: BootstrapSample) -> Estimate:
    """Return the main score of a task with its interval."""
    return _estimate(one.result.score, one.scores_R)


def difference(one: BootstrapSample, first: BootstrapSample) -> Estimate:
    """Return the score of a model minus that of the first model, on the same rows."""
    return _estimate(one.result.score - first.result.score, _paired_difference(one, first))


def mean(many: Sequence[BootstrapSample]) -> Estimate:
    """Return the mean score of several tasks with equal weights, resampled within each task.

    The interval is known only if the scores of single rows are known for every task.
    """
    return _mean([each.result.score for each in many], [each.scores_R for each in many])


def mean_difference(many: Sequence[BootstrapSample], first: Sequence[BootstrapSample]) -> Estimate:
    """Return the mean difference to the first model on the same tasks.

    Args:
        many: samples of the model.
        first: samples of the first model, of the same tasks in the same order.
    """
    pairs = list(zip(many, first, strict=True))
    values = [one.result.score - other.result.score for one, other in pairs]
    return _mean(values, [_paired_difference(one, other) for one, other in pairs])


def spearman(pairs_N2: Floats, counts_RN: Floats) -> Floats:
    """Return Spearman's rank correlation in each resample, with mean ranks for ties: (R,).

    It is 0 where one of the columns is constant.

    Args:
        pairs_N2: predicted value and gold value of each row.
        counts_RN: number of times that each row is in each resample.
    """
    one_RN, other_RN = (_ranks(column_N, counts_RN) for column_N in pairs_N2.T)
    total = counts_RN.sum(axis=1, keepdims=True)
    one_RN = one_RN - (one_RN * counts_RN).sum(axis=1, keepdims=True) / total
    other_RN = other_RN - (other_RN * counts_RN).sum(axis=1, keepdims=True) / total
    shared_R = (counts_RN * one_RN * other_RN).sum(axis=1)
    spread_R = (counts_RN * one_RN**2).sum(axis=1) * (counts_RN * other_RN**2).sum(axis=1)
    # A constant column has no order, and the correlation would be 0 / 0.
    return np.where(spread_R > 0, shared_R / np.sqrt(np.where(spread_R > 0, spread_R, 1)), 0.0)


def average_precision(pairs_N2: Floats, counts_RN: Floats) -> Floats:
    """Return the average precision in each resample, with the highest value ranked first: (R,).

    Rows of equal value share a rank. Without a positive row the average precision is 0.

    Args:
        pairs_N2: predicted value and label (1 for positive rows, else 0) of each row.
        counts_RN: number of times that each row is in each resample.
    """
    value_N, label_N = pairs_N2.T
    order_N = np.argsort(-value_N, kind="stable")
    starts_K = np.flatnonzero(np.diff(value_N[order_N], prepend=np.inf))
    drawn_RN = counts_RN[:, order_N]
    found_RK = np.add.reduceat(drawn_RN, starts_K, axis=1)
    right_RK = np.add.reduceat(drawn_RN * label_N[order_N], starts_K, axis=1)
    precision_RK = right_RK.cumsum(axis=1) / np.maximum(found_RK.cumsum(axis=1), 1)
    right_R = right_RK.sum(axis=1)
    return (right_RK * precision_RK).sum(axis=1) / np.maximum(right_R, 1)


def _ranks(values_N: Floats, counts_RN: Floats) -> Floats:
    """Return the rank of each row in each resample; rows of equal value share their mean rank."""
    _, value_N = np.unique(values_N, return_inverse=True)
    order_N = np.argsort(value_N, kind="stable")
    starts_K = np.unique(value_N[order_N], return_index=True)[1]
    drawn_RK = np.add.reduceat(counts_RN[:, order_N], starts_K, axis=1)
    rank_RK = np.cumsum(drawn_RK, axis=1) - (drawn_RK - 1) / 2
    return rank_RK[:, value_N]


def _draw_counts(task: str, rows: int) -> Iterator[Floats]:
    """Yield the number of times that each row is in a resample, for r resamples a time: (r, N)."""
    random = np.random.default_rng(crc32(task.encode()))
    step = max(1, min(RESAMPLES, _CHUNK // rows))
    for start in range(0, RESAMPLES, step):
        count = min(step, RESAMPLES - start)
        drawn = random.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        counted = np.bincount(drawn.ravel(), minlength=count * rows)
        yield counted.reshape(count, rows).astype(np.float64)


def _paired_difference(one: BootstrapSample, first: BootstrapSample) -> Floats | None:
    """Return the difference in each resample; None if the rows are unknown or not the same."""
    if one.scores_R is None or first.scores_R is None or not _same_rows(one.result, first.result):
        return None
    return one.scores_R - first.scores_R


def _same_rows(one: TaskResult, other: TaskResult) -> bool:
    if one.pairs is not None and other.pairs is not None:
        return [gold for _, gold in one.pairs] == [gold for _, gold in other.pairs]
    return len(one.items or ()) == len(other.items or ())


def _mean(values: Sequence[float], drawn: Sequence[Floats | None]) -> Estimate:
    """Return the mean; without an interval if a value has none.

    Counted as a constant, such a value would make the interval too narrow.
    """
    known = [scores_R for scores_R in drawn if scores_R is not None]
    mean_R = np.mean(known, axis=0) if len(known) == len(values) else None
    return _estimate(float(np.mean(values)), mean_R)


def _estimate(value: float, drawn_R: Floats | None) -> Estimate:
    if drawn_R is None:
        return Estimate(value)
    low, high = np.quantile(drawn_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))
