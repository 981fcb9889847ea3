"""Blocking calls to the model's thread, for the other threads of a request."""

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
    """Model calls of one request, which is counted once by its own reservation.

    Leaving the context ends the call in progress and refuses later ones.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._exited = False
        self._waiting: Future[Any] | None = None

    def __call__(self, run: Callable[[], T]) -> T:
        """Run a function on the model's thread, in turn with all other requests.

        Args:
            run: the function.

        Returns:
            The function's result.

        Raises:
            RequestCancelledError: when the request was cancelled.
            RequestInterruptedError: when the server shuts down before the function has run.
        """
        result: Future[T] = Future()

        def deliver(event: EngineEvent) -> None:
            with suppress(InvalidStateError):  # cancelled in this moment
                if isinstance(event, RequestFailed):
                    result.set_exception(event.error)
                elif isinstance(event, RequestFinished):
                    result.set_result(event.value)

        self._waiting = result
        handle = self._scheduler.submit_uncounted(ModelJob(lambda _: run()), deliver)
        if self._exited:
            self._cancel(result)
        try:
            return result.result()
        finally:
            handle.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exited = True
        if self._waiting is not None:
            self._cancel(self._waiting)

    @staticmethod
    def _cancel(result: Future[Any]) -> None:
        with suppress(InvalidStateError):  # it has ended
            result.set_exception(RequestCancelledError())
