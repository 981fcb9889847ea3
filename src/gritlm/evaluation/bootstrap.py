"""How sure a figure is, and a difference of two: the bootstrap (Efron 1979), paired by rows.

Shapes: R resamples, N rows, K distinct values of the rows. The rows that are drawn depend on the
task and its number of rows alone, so all models are resampled alike and differences are paired.
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
_CHUNK = 4_000_000  # numbers of one matrix in memory

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        low, high: of the 95% interval; None where the rows are not known; of a mean, where those
            of one of its tasks are not.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class BootstrapSample:
    """A result with its score on each of R resamples of its rows, in percent.

    Attributes:
        scores_R: None where the figures of the rows are not known, or there is only one.
    """

    result: TaskResult
    scores_R: Floats | None


def resampled(result: TaskResult) -> BootstrapSample:
    """Draw the rows of a result again and again; all other functions compare what this returns."""
    if result.pairs is not None and len(result.pairs) > 1:
        pairs_N2 = np.asarray(result.pairs, dtype=np.float64)
        figure = average_precision if result.kind == "PairClassification" else spearman
        parts = [figure(pairs_N2, counts) for counts in _draws(result.task, len(pairs_N2))]
    elif result.items is not None and len(result.items) > 1:
        items_N = np.asarray(result.items, dtype=np.float64)
        parts = [counts @ items_N / len(items_N) for counts in _draws(result.task, len(items_N))]
    else:
        return BootstrapSample(result, None)
    return BootstrapSample(result, 100 * np.concatenate(parts))


def score(one: BootstrapSample) -> Estimate:
    """The main figure of a task."""
    return _estimate(one.result.score, one.scores_R)


def difference(one: BootstrapSample, first: BootstrapSample) -> Estimate:
    """How much more a model has than the first one, on the same rows."""
    return _estimate(one.result.score - first.result.score, _minus(one, first))


def mean(many: Sequence[BootstrapSample]) -> Estimate:
    """The mean of several tasks, each counting the same; rows are resampled within each task.

    There is an interval only where the rows of all of them are known.
    """
    return _mean([each.result.score for each in many], [each.scores_R for each in many])


def mean_difference(many: Sequence[BootstrapSample], first: Sequence[BootstrapSample]) -> Estimate:
    """The mean of the differences to the first model on the same tasks, in the same order."""
    pairs = list(zip(many, first, strict=True))
    values = [one.result.score - other.result.score for one, other in pairs]
    return _mean(values, [_minus(one, other) for one, other in pairs])


def spearman(pairs_N2: Floats, counts_RN: Floats) -> Floats:
    """Spearman's correlation of weighted rows, ties by their mean rank -> (R,).

    Args:
        counts_RN: how often each row is drawn.
    """
    one_RN, other_RN = (_ranks(column_N, counts_RN) for column_N in pairs_N2.T)
    total = counts_RN.sum(axis=1, keepdims=True)
    one_RN = one_RN - (one_RN * counts_RN).sum(axis=1, keepdims=True) / total
    other_RN = other_RN - (other_RN * counts_RN).sum(axis=1, keepdims=True) / total
    shared_R = (counts_RN * one_RN * other_RN).sum(axis=1)
    spread_R = (counts_RN * one_RN**2).sum(axis=1) * (counts_RN * other_RN**2).sum(axis=1)
    # all drawn rows alike: no order to agree on
    return np.where(spread_R > 0, shared_R / np.sqrt(np.where(spread_R > 0, spread_R, 1)), 0.0)


def average_precision(pairs_N2: Floats, counts_RN: Floats) -> Floats:
    """Mean precision at each right row (label 1) of weighted rows, the highest value first -> (R,).

    Rows of equal value are found together. Without a right row it is 0.

    Args:
        counts_RN: how often each row is drawn.
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
    """Rank of each row among the drawn ones; those of equal value share the mean of theirs."""
    _, kind_N = np.unique(values_N, return_inverse=True)
    order_N = np.argsort(kind_N, kind="stable")
    starts_K = np.unique(kind_N[order_N], return_index=True)[1]
    drawn_RK = np.add.reduceat(counts_RN[:, order_N], starts_K, axis=1)
    rank_RK = np.cumsum(drawn_RK, axis=1) - (drawn_RK - 1) / 2
    return rank_RK[:, kind_N]


def _draws(task: str, rows: int) -> Iterator[Floats]:
    """How often each row is in each resample, some resamples at a time -> (r, N)."""
    random = np.random.default_rng(crc32(task.encode()))
    step = max(1, min(RESAMPLES, _CHUNK // rows))
    for start in range(0, RESAMPLES, step):
        count = min(step, RESAMPLES - start)
        drawn = random.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
        counted = np.bincount(drawn.ravel(), minlength=count * rows)
        yield counted.reshape(count, rows).astype(np.float64)


def _minus(one: BootstrapSample, first: BootstrapSample) -> Floats | None:
    """None where the rows are not known, or not the same."""
    if one.scores_R is None or first.scores_R is None or not _same_rows(one.result, first.result):
        return None
    return one.scores_R - first.scores_R


def _same_rows(one: TaskResult, other: TaskResult) -> bool:
    if one.pairs is not None and other.pairs is not None:
        return [gold for _, gold in one.pairs] == [gold for _, gold in other.pairs]
    return len(one.items or ()) == len(other.items or ())


def _mean(values: Sequence[float], drawn: Sequence[Floats | None]) -> Estimate:
    """No interval where the rows of a value are not known: as a constant it would seem exact."""
    known = [each for each in drawn if each is not None]
    mixed_R = np.mean(known, axis=0) if len(known) == len(values) else None
    return _estimate(float(np.mean(values)), mixed_R)


def _estimate(value: float, drawn_R: Floats | None) -> Estimate:
    if drawn_R is None:
        return Estimate(value)
    low, high = np.quantile(drawn_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))
