"""The cost model of the shared tier."""

from __future__ import annotations

import pytest

from gritlm.rag.kvstore.eviction import recompute_cost
from gritlm.rag.kvstore.shared.fetch_costs import FetchCosts

MEGABYTE = 2**20


def measured(*, latency: float, bandwidth: float, tokens_per_s: float) -> FetchCosts:
    """Costs after some measurements of blocks of 256 tokens, 20 KiB a token."""
    costs = FetchCosts(20 * 1024)
    nbytes = 256 * 20 * 1024
    for _ in range(30):
        costs.measure_request(latency)
        costs.measure_fetch(256, nbytes, latency + nbytes / bandwidth)
        costs.measure_prefill(256, recompute_cost(256) / tokens_per_s)
    return costs


def test_times_follow_the_measurements():
    costs = measured(latency=0.02, bandwidth=100 * MEGABYTE, tokens_per_s=1000)
    assert costs.fetch_seconds(512) == pytest.approx(0.02 + 0.1, rel=1e-3)
    assert costs.prefill_seconds(512) == pytest.approx(recompute_cost(512) / 1000, rel=1e-3)


@pytest.mark.parametrize(
    ("latency", "megabytes_per_s", "tokens_per_s", "worth"),
    [
        (0.02, 100, 1_000, True),  # a CPU and a fast network: 0.07 s against 0.26 s
        (0.02, 10, 1_000, False),  # 0.52 s
        (0.02, 100, 30_000, False),  # a GPU computes it in 9 ms
        (0.001, 5_000, 30_000, True),  # a file system of the cluster: 2 ms
    ],
)
def test_a_block_is_fetched_where_that_is_faster(latency, megabytes_per_s, tokens_per_s, worth):
    costs = measured(
        latency=latency, bandwidth=megabytes_per_s * MEGABYTE, tokens_per_s=tokens_per_s
    )
    assert costs.is_worth(256) is worth


def test_short_blocks_are_not_worth_the_latency():
    costs = measured(latency=0.05, bandwidth=1000 * MEGABYTE, tokens_per_s=1000)
    assert [costs.is_worth(tokens) for tokens in (16, 256)] == [False, True]


def test_long_blocks_are_worth_more_because_attention_is_quadratic():
    costs = measured(latency=0.02, bandwidth=18 * MEGABYTE, tokens_per_s=1000)
    assert [costs.is_worth(tokens) for tokens in (256, 8192)] == [False, True]


def test_unmeasured_storage_is_tried():
    assert FetchCosts(1024).is_worth(1)


def test_a_change_of_the_network_is_noticed():
    costs = measured(latency=0.02, bandwidth=MEGABYTE, tokens_per_s=1000)
    decisions = [costs.allows_fetch(256) for _ in range(128)]
    assert decisions.count(True) == 2  # trials
    for _ in range(30):
        costs.measure_fetch(256, 256 * 20 * 1024, 0.03)
    assert costs.allows_fetch(256)
