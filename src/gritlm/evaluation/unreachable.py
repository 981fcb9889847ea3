"""Error for the data of a task that cannot be downloaded."""

from __future__ import annotations

from gritlm.errors import GritLMError, one_line


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
