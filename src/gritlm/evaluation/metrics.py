"""What a figure is, by its name alone: a percentage or not, and which way is better.

Values tell nothing: a perplexity can be 0.9 and a length 1.
"""

from __future__ import annotations

import re

LESS = " (less is better)"  # behind a name that does not say so itself

_NO_PERCENTAGES = re.compile(
    r"perplexity|bits_per_byte|likelihood|(^|_)(brier|bleu|chrf|rouge)|(^|_)ter(_|$)"
)
_LESS_IS_BETTER = re.compile(r"perplexity|bits_per_byte|(^|_)(brier|ter|wer|cer)(_|$)")


def is_percentage(metric: str) -> bool:
    """Whether it is shown in percent: shares and correlations; not perplexities, BLEU and such."""
    return _NO_PERCENTAGES.search(_plain(metric)) is None


def less_is_better(metric: str) -> bool:
    return metric.endswith(LESS) or _LESS_IS_BETTER.search(_plain(metric)) is not None


def counts(metric: str) -> bool:
    """Whether it goes into means: percent, of which more is better."""
    return is_percentage(metric) and not less_is_better(metric)


def named(metric: str, *, higher_is_better: bool | None) -> str:
    """The name under which a figure is kept, from which its direction can be told.

    Args:
        higher_is_better: what the harness says; None where it says nothing.
    """
    silent = higher_is_better is False and not less_is_better(metric)
    return f"{metric}{LESS}" if silent else metric


def _plain(metric: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", metric.removesuffix(LESS).lower())
