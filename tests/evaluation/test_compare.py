"""Intervals and differences by resampling the rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from gritlm.evaluation import bootstrap
from gritlm.evaluation.results import TaskResult
from tests.evaluation import made


def items(task: str, right: int, rows: int = 200, seed: int = 0) -> TaskResult:
    values = np.zeros(rows)
    values[:right] = 1
    np.random.default_rng(seed).shuffle(values)
    return made.result(
        task, score=100 * right / rows, count=rows, items=tuple(map(float, values)), pairs=None
    )


def pairs(task: str, noise: float, rows: int = 150) -> TaskResult:
    random = np.random.default_rng(0)
    gold = random.integers(0, 6, rows).astype(float)  # with ties
    value = gold + noise * random.normal(size=rows)
    score = 100 * float(spearmanr(value, gold).statistic)
    both = tuple(zip(map(float, value), map(float, gold), strict=True))
    return made.result(task, score=score, count=rows, items=None, pairs=both)


def test_the_interval_of_a_share_is_that_of_the_normal_approximation():
    estimate = bootstrap.score(bootstrap.resampled(items("a", 120)))
    half = 196 * np.sqrt(0.6 * 0.4 / 200)
    assert estimate.value == 60
    assert estimate.low == pytest.approx(60 - half, abs=1)
    assert estimate.high == pytest.approx(60 + half, abs=1)


def test_the_same_rows_give_the_same_interval_every_time():
    one, other = (bootstrap.resampled(items("a", 120)) for _ in range(2))
    assert bootstrap.score(one) == bootstrap.score(other)


def test_spearman_of_drawn_rows_equals_scipy_with_the_rows_repeated():
    both_N2 = np.asarray(pairs("a", 2.0, rows=40).pairs)
    counts_RN = np.random.default_rng(1).integers(0, 4, size=(5, 40)).astype(float)
    found_R = bootstrap.spearman(both_N2, counts_RN)
    for found, counts_N in zip(found_R, counts_RN, strict=True):
        repeated = np.repeat(both_N2, counts_N.astype(int), axis=0)
        assert found == pytest.approx(spearmanr(*repeated.T).statistic)


def test_rows_that_are_all_alike_correlate_with_nothing():
    assert bootstrap.spearman(np.ones((3, 2)), np.ones((1, 3))).tolist() == [0]


def test_the_interval_of_a_correlation_holds_it():
    result = pairs("a", 2.0)
    estimate = bootstrap.score(bootstrap.resampled(result))
    assert estimate.low < result.score < estimate.high
    assert 2 < estimate.high - estimate.low < 30


def test_a_model_does_not_differ_from_itself():
    one = bootstrap.resampled(items("a", 120))
    assert bootstrap.difference(one, one) == bootstrap.Estimate(0, 0, 0)


def test_a_difference_is_paired_by_rows():
    worse, better = items("a", 100, seed=1), items("a", 100, seed=1)
    values = list(better.items or ())
    values[values.index(0.0)] = 1.0  # one row more, the same otherwise
    better = made.result("a", score=50.5, count=200, items=tuple(values))
    estimate = bootstrap.difference(bootstrap.resampled(better), bootstrap.resampled(worse))
    assert estimate.value == pytest.approx(0.5)
    assert estimate.low == 0  # unpaired it would be some -10
    assert not estimate.differs


def test_a_clear_difference_leaves_out_zero():
    first = bootstrap.resampled(items("a", 80, seed=1))
    assert bootstrap.difference(bootstrap.resampled(items("a", 150)), first).differs
    assert bootstrap.difference(
        bootstrap.resampled(pairs("p", 0.5)), bootstrap.resampled(pairs("p", 6.0))
    ).differs


def test_without_the_rows_there_is_no_interval():
    plain = bootstrap.resampled(made.result("a", items=None))
    other = bootstrap.resampled(made.result("a", items=None, score=70.0))
    assert bootstrap.score(plain) == bootstrap.Estimate(75.0)
    assert bootstrap.difference(other, plain) == bootstrap.Estimate(-5.0)
    assert bootstrap.mean([plain, other]) == bootstrap.Estimate(72.5)


def test_rows_that_are_not_the_same_are_not_paired():
    one, other = bootstrap.resampled(items("a", 60)), bootstrap.resampled(items("a", 60, rows=100))
    assert bootstrap.difference(one, other).low is None


def test_a_mean_over_tasks_is_surer_than_one_task():
    tasks = [bootstrap.resampled(items(name, 120)) for name in "abcd"]
    first = [bootstrap.resampled(items(name, 100, seed=9)) for name in "abcd"]
    one, four = bootstrap.score(tasks[0]), bootstrap.mean(tasks)
    assert four.value == 60
    assert four.high - four.low == pytest.approx((one.high - one.low) / 2, rel=0.2)
    difference = bootstrap.mean_difference(tasks, first)
    assert difference.value == pytest.approx(10)
    assert difference.low < 10 < difference.high


def test_many_rows_are_drawn_in_parts_and_give_all_resamples():
    drawn = bootstrap.resampled(items("a", 6000, rows=10_000))
    assert drawn.scores_R.shape == (bootstrap.RESAMPLES,)


def test_average_precision_of_drawn_rows_equals_sklearn_with_the_rows_repeated():
    random = np.random.default_rng(2)
    both_N2 = np.stack([random.integers(0, 9, 40), random.integers(0, 2, 40)], axis=1).astype(float)
    counts_RN = random.integers(0, 4, size=(5, 40)).astype(float)
    found_R = bootstrap.average_precision(both_N2, counts_RN)
    for found, counts_N in zip(found_R, counts_RN, strict=True):
        value, label = np.repeat(both_N2, counts_N.astype(int), axis=0).T
        assert found == pytest.approx(average_precision_score(label, value))


def test_without_a_right_row_the_precision_is_0():
    assert bootstrap.average_precision(np.array([[0.5, 0.0], [0.1, 0.0]]), np.ones((1, 2))) == [0]


def test_pair_classification_gets_the_interval_of_its_average_precision():
    random = np.random.default_rng(3)
    label = random.integers(0, 2, 150).astype(float)
    value = label + random.normal(size=150)
    figure = 100 * average_precision_score(label, value)
    result = made.result(
        "p",
        kind="PairClassification",
        metric="cosine_ap",
        score=figure,
        items=None,
        pairs=tuple(zip(value, label, strict=True)),
    )
    estimate = bootstrap.score(bootstrap.resampled(result))
    assert estimate.low < figure < estimate.high
    assert estimate.high - estimate.low < 25


def test_a_mean_has_no_interval_when_the_rows_of_a_task_are_not_known():
    first = [bootstrap.resampled(items("a", 80)), bootstrap.resampled(made.result("c", items=None))]
    second = [
        bootstrap.resampled(items("a", 150)),
        bootstrap.resampled(made.result("c", items=None)),
    ]
    assert bootstrap.mean(second) == bootstrap.Estimate(75.0)
    difference = bootstrap.mean_difference(second, first)
    assert difference == bootstrap.Estimate(17.5)
    assert not difference.differs


def test_one_row_alone_has_no_interval():
    one = made.result("a", score=100.0, count=1, items=(1.0,))
    assert bootstrap.score(bootstrap.resampled(one)) == bootstrap.Estimate(100.0)
