"""Data that is somewhere else, and cannot be had now."""

from __future__ import annotations

from gritlm.errors import GritLMError


class DataUnreachableError(GritLMError):
    """The data of a task cannot be fetched; the message names the task and the reason.

    Whoever measures several tasks skips this one and goes on.
    """

    def __init__(self, task: str, reason: object) -> None:
        self.task = task
        self.reason = " ".join(str(reason).split())[:300] or type(reason).__name__
        super().__init__(
            f"the data of task {task!r} cannot be reached ({self.reason}); fetch it where there is "
            "a network, or measure local tasks"
        )
