"""What a figure is, by its name."""

from __future__ import annotations

import pytest

from gritlm.evaluation import metrics


@pytest.mark.parametrize(
    ("metric", "percentage", "less"),
    [
        ("acc", True, False),
        ("exact_match,strict-match", True, False),
        ("f1", True, False),
        ("cosine_spearman", True, False),
        ("ndcg_at_10", True, False),
        ("filter", True, False),
        ("perplexity", False, True),
        ("word_perplexity", False, True),
        ("bits_per_byte", False, True),
        ("brier_score", False, True),
        ("ter", False, True),
        ("bleu", False, False),
        ("rougeL", False, False),
        ("likelihood", False, False),
        ("wer", True, True),
        ("toxicity (less is better)", True, True),
    ],
)
def test_names_tell_what_is_a_percentage_and_which_way_is_better(metric, percentage, less):
    assert metrics.is_percentage(metric) == percentage
    assert metrics.less_is_better(metric) == less
    assert metrics.counts(metric) == (percentage and not less)


def test_a_name_that_does_not_tell_its_direction_is_made_to():
    assert metrics.named("toxicity", higher_is_better=False) == "toxicity (less is better)"
    assert metrics.named("perplexity", higher_is_better=False) == "perplexity"
    assert metrics.named("acc", higher_is_better=True) == "acc"
    assert metrics.named("acc", higher_is_better=None) == "acc"
