"""The model's thread as other threads of a request use it: each call waits for its result."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from gritlm.serve.engine.errors import RequestCancelledError
from gritlm.serve.engine.requests import EngineEvent, ModelJob, RequestFailed, RequestFinished
from gritlm.serve.engine.scheduler import Scheduler

T = TypeVar("T")


class ModelThread:
    """Calls of one request, which keeps a place of its own and counts by that.

    Leaving the context ends the call that waits, and refuses those that come later.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._left = False
        self._waiting: Future[Any] | None = None

    def __call__(self, run: Callable[[], T]) -> T:
        """Run on the model's thread, in turn with all other requests.

        Raises:
            NobodyWantsItError: when the request was given up.
            CutOffError: when the server shuts down before it has run.
        """
        result: Future[T] = Future()

        def deliver(event: EngineEvent) -> None:
            with suppress(InvalidStateError):  # the request was given up in this moment
                if isinstance(event, RequestFailed):
                    result.set_exception(event.error)
                elif isinstance(event, RequestFinished):
                    result.set_result(event.value)

        self._waiting = result
        ticket = self._scheduler.submit_aside(ModelJob(lambda _: run()), deliver)
        if self._left:
            self._give_up(result)
        try:
            return result.result()
        finally:
            ticket.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left = True
        if self._waiting is not None:
            self._give_up(self._waiting)

    @staticmethod
    def _give_up(result: Future[Any]) -> None:
        with suppress(InvalidStateError):  # it has ended
            result.set_exception(RequestCancelledError())
