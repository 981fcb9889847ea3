"""The two harnesses that measure: what they are called, and whether they are installed."""

from __future__ import annotations

from importlib.util import find_spec

from gritlm.distribution import install_hint
from gritlm.errors import MissingExtraError
from gritlm.evaluation.results import Half

NAMES: dict[Half, str] = {"embedding": "mteb", "generation": "lm-eval"}


def require(half: Half) -> None:
    """What a half is measured by; question answering needs nothing.

    Raises:
        MissingExtraError: when it is not installed.
    """
    name = NAMES.get(half)
    if name is not None and find_spec(name.replace("-", "_")) is None:
        raise MissingExtraError(
            f"measuring {half} needs {name}, which is not installed; {install_hint('eval')}"
        )
