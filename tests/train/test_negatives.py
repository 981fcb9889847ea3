"""Which passages become hard negatives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gritlm.errors import InputError
from gritlm.lm.vectors import normalise
from gritlm.train.mining import negatives
from gritlm.train.mining.negatives import MiningConfig, choose, nearest

SCORES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, -0.1]


def vectors(count: int, seed: int, size: int = 6) -> Tensor:
    return normalise(torch.randn(count, size, generator=torch.Generator().manual_seed(seed)))


def mined(positives: set[int], kept: set[int] | None = None, **settings: object) -> list[int]:
    """One query; passage i scores ``SCORES[i]``."""
    asked = MiningConfig(**{"num_negatives": 2, **settings})
    (found,) = choose(
        torch.ones(1, 1), torch.tensor(SCORES)[:, None], [positives], asked, kept=[kept or set()]
    )
    return found


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 2]),
        ({"num_negatives": 50}, [0, 2, 3, 4, 5, 6]),
        ({"range_min": 1}, [2, 3]),
        ({"num_negatives": 3, "range_max": 3}, [0, 2, 3]),
        ({"max_score": 0.65}, [3, 4]),
        ({"max_score": 0.65, "range_min": 1}, [4, 5]),
        ({"max_score": 0.65, "range_max": 2}, []),
        ({"num_negatives": 9, "min_score": 0.65}, [0, 2]),
        ({"absolute_margin": 0.15}, [3, 4]),
        ({"relative_margin": 0.3}, [4, 5]),
    ],
)
def test_each_setting_bounds_the_negatives(settings, expected):
    assert mined({1}, **settings) == expected


def test_margins_are_measured_from_the_worst_positive():
    assert mined({0, 3}, absolute_margin=0.0) == [4, 5]


def test_a_relative_margin_below_a_negative_score_goes_down():
    assert mined({6}, relative_margin=0.5, num_negatives=9) == []


def test_negatives_that_are_there_count_and_are_not_chosen_again():
    assert mined({1}, {0}, num_negatives=3) == [2, 3]
    assert mined({1}, {0, 2, 3}, num_negatives=3) == []


def test_random_negatives_are_allowed_ones_and_the_same_for_the_same_seed():
    settings = {"sampling": "random", "num_negatives": 2, "max_score": 0.65}
    drawn = {tuple(mined({1}, seed=seed, **settings)) for seed in range(30)}
    assert len(drawn) > 3
    assert all(set(pair) <= {3, 4, 5, 6} and pair == tuple(sorted(pair)) for pair in drawn)
    assert mined({1}, seed=7, **settings) == mined({1}, seed=7, **settings)


@pytest.mark.parametrize("sampling", ["top", "random"])
def test_the_size_of_a_block_changes_nothing(monkeypatch, sampling):
    query_QD, passage_PD = vectors(10, 0), vectors(50, 1)
    positives = [{row, row + 10} for row in range(10)]
    settings = MiningConfig(range_max=20, absolute_margin=0.1, sampling=sampling)
    whole = choose(query_QD, passage_PD, positives, settings)
    assert any(whole)
    monkeypatch.setattr(negatives, "QUERIES", 3)
    monkeypatch.setattr(negatives, "PASSAGES", 7)
    assert choose(query_QD, passage_PD, positives, settings) == whole


def test_no_block_of_similarities_is_larger_than_its_bounds(monkeypatch):
    sizes = []

    def watched(query_QD: Tensor, passage_PD: Tensor) -> Tensor:
        sizes.append(len(query_QD) * len(passage_PD))
        return query_QD @ passage_PD.T

    monkeypatch.setattr(negatives, "QUERIES", 3)
    monkeypatch.setattr(negatives, "PASSAGES", 7)
    monkeypatch.setattr(negatives, "similarity", watched)
    choose(vectors(10, 0), vectors(50, 1), [{row} for row in range(10)], MiningConfig())
    assert max(sizes) == 3 * 7


def test_similarities_are_float32_whatever_the_vectors_are():
    score_QK, _ = nearest(vectors(2, 0).bfloat16(), vectors(5, 1).bfloat16(), 3)
    assert score_QK.dtype == torch.float32


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"range_min": 3},
        {"range_min": 2, "range_max": 9, "num_negatives": 4},
        {"max_score": 0.5},
        {"max_score": 0.5, "min_score": 0.2, "range_min": 1},
        {"absolute_margin": 0.1},
        {"relative_margin": 0.05, "max_score": 0.9},
        {"absolute_margin": 0.0, "relative_margin": 0.2, "range_max": 12},
    ],
)
def test_the_negatives_are_those_of_sentence_transformers(settings):
    pytest.importorskip("datasets")
    util = pytest.importorskip("sentence_transformers.util")
    from datasets import Dataset

    asked = replace(MiningConfig(), **settings)
    query_QD, passage_PD = vectors(12, 3), vectors(60, 4)
    passage_PD[:12] = normalise(query_QD + 0.7 * passage_PD[:12])  # positives are near
    queries, passages = [f"q{i}" for i in range(12)], [f"p{i}" for i in range(60)]
    known = dict(zip(queries + passages, torch.cat([query_QD, passage_PD]), strict=True))

    class Model:
        device = torch.device("cpu")

        def encode_query(self, texts, **_):
            return torch.stack([known[text] for text in texts]).numpy()

        encode_document = encode_query

        def similarity(self, one, other):
            return torch.as_tensor(one) @ torch.as_tensor(other).T

        def similarity_pairwise(self, one, other):
            return (torch.as_tensor(one) * torch.as_tensor(other)).sum(dim=1)

    theirs: dict[str, list[int]] = {query: [] for query in queries}
    for row in util.mine_hard_negatives(
        Dataset.from_dict({"anchor": queries, "positive": passages[:12]}),
        Model(),
        corpus=passages,
        range_min=asked.range_min,
        range_max=asked.range_max,
        max_score=asked.max_score,
        min_score=asked.min_score,
        absolute_margin=asked.absolute_margin,
        relative_margin=asked.relative_margin,
        num_negatives=asked.num_negatives,
        sampling_strategy="top",
        output_format="triplet",
        verbose=False,
    ):
        theirs[row["anchor"]].append(int(row["negative"][1:]))
    ours = choose(query_QD, passage_PD, [{row} for row in range(12)], asked)
    assert any(ours)
    assert ours == list(theirs.values())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_negatives": 0}, "num_negatives = 0; expected at least 1"),
        ({"range_min": -1}, "range_min = -1; expected at least 0"),
        ({"range_min": 48}, "leave no room for 5 negatives"),
        ({"min_score": 0.5, "max_score": 0.4}, "no score is between"),
        ({"sampling": "best"}, "sampling='best' is unknown; expected one of top, random"),
    ],
)
def test_settings_that_leave_nothing_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        MiningConfig(**settings)
