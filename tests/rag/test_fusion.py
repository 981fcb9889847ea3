from __future__ import annotations

from gritlm.rag.index.ranking import reciprocal_ranks


def test_one_ranking_stays_as_it_is():
    assert reciprocal_ranks([["c", "a", "b"]]) == ["c", "a", "b"]


def test_what_two_rankings_know_comes_before_what_only_one_knows():
    assert reciprocal_ranks([["a", "b", "c"], ["d", "c", "e"]])[0] == "c"


def test_the_sum_of_reciprocal_ranks_decides():
    # k = 1: a has 1/2 + 1/4, b has 1/3 + 1/3, c has 1/4 + 1/2
    assert reciprocal_ranks([["a", "b", "c"], ["c", "b", "a"]], k=1) == ["a", "c", "b"]


def test_equal_sums_stand_in_the_order_of_ids():
    assert reciprocal_ranks([["b"], ["a"]]) == ["a", "b"]


def test_no_ranking_and_empty_ones_give_nothing():
    assert reciprocal_ranks([]) == reciprocal_ranks([[], []]) == []
