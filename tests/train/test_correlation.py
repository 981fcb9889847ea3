"""Rank correlation against scipy."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from gritlm.train.objectives.evaluation import average_ranks, spearman


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_that_of_scipy_with_ties_on_both_sides(seed):
    torch.manual_seed(seed)
    one, other = torch.randn(50).round(decimals=1), torch.randint(0, 6, (50,)).double()
    expected = stats.spearmanr(one.numpy(), other.numpy()).statistic
    assert spearman(one, other) == pytest.approx(expected, abs=1e-12)


def test_equal_values_share_the_mean_of_their_places():
    assert average_ranks(torch.tensor([5.0, 1.0, 5.0, 2.0, 5.0])).tolist() == [4, 1, 4, 2, 4]


def test_only_the_order_counts():
    value = torch.tensor([0.1, 0.5, 0.2])
    assert spearman(value, value.exp()) == pytest.approx(1)
    assert spearman(value, -value) == pytest.approx(-1)


def test_values_without_any_order_correlate_with_nothing():
    assert spearman(torch.ones(4), torch.arange(4)) == 0
