"""The evaluation harnesses (mteb, lm-eval): a check that they are installed, and missing data."""

from __future__ import annotations

from importlib.util import find_spec

from gritlm.distribution import install_hint
from gritlm.errors import GritLMError, MissingExtraError, one_line
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


class DataUnreachableError(GritLMError):
    """Error: the data of a task cannot be downloaded.

    The message names the task and the reason. A run over several tasks skips this one.

    Args:
        task: name of the task.
        reason: the original error, or its text.
    """

    def __init__(self, task: str, reason: object) -> None:
        self.task = task
        self.reason = one_line(reason, limit=300) or type(reason).__name__
        super().__init__(
            f"the data of task {task!r} cannot be reached ({self.reason}); download it with a "
            "network connection, or measure local tasks"
        )
