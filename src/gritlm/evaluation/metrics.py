"""Properties of a metric by its name: whether it is a percentage, and which direction is better.

The name decides, as values do not tell: a perplexity can be 0.9 and a length 1.
"""

from __future__ import annotations

import re

LESS = " (less is better)"  # suffix of a name that does not show its direction

_NO_PERCENTAGES = re.compile(
    r"perplexity|bits_per_byte|likelihood|(^|_)(brier|bleu|chrf|rouge)|(^|_)ter(_|$)"
)
_LESS_IS_BETTER = re.compile(r"perplexity|bits_per_byte|(^|_)(brier|ter|wer|cer)(_|$)")


def is_percentage(metric: str) -> bool:
    """Return whether a metric is shown in percent.

    Shares and correlations are; perplexities, BLEU and the like are not.
    """
    return _NO_PERCENTAGES.search(_plain(metric)) is None


def less_is_better(metric: str) -> bool:
    """Return whether a lower value of a metric is better."""
    return metric.endswith(LESS) or _LESS_IS_BETTER.search(_plain(metric)) is not None


def counts(metric: str) -> bool:
    """Return whether a metric is averaged over tasks: a percentage where higher is better."""
    return is_percentage(metric) and not less_is_better(metric)


def named(metric: str, *, higher_is_better: bool | None) -> str:
    """Return the name of a metric in the report, which shows its direction.

    Args:
        metric: name of the metric in the harness.
        higher_is_better: direction reported by the harness; None if it reports none.
    """
    silent = higher_is_better is False and not less_is_better(metric)
    return f"{metric}{LESS}" if silent else metric


def _plain(metric: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", metric.removesuffix(LESS).lower())
