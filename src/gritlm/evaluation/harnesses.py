"""Names of the evaluation harnesses (mteb, lm-eval), and a check that they are installed."""

from __future__ import annotations

from importlib.util import find_spec

from gritlm.distribution import install_hint
from gritlm.errors import MissingExtraError
from gritlm.evaluation.results import Kind

NAMES: dict[Kind, str] = {"embedding": "mteb", "generation": "lm-eval"}


def require(kind: Kind) -> None:
    """Check that the harness of a kind of task is installed; ``rag`` needs none.

    Raises:
        MissingExtraError: if the harness is not installed.
    """
    name = NAMES.get(kind)
    if name is not None and find_spec(name.replace("-", "_")) is None:
        raise MissingExtraError(
            f"measuring {kind} needs {name}, which is not installed; {install_hint('eval')}"
        )
