"""Health check of the model's thread, shared by requests of about the same time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

import torch

from gritlm.lm.gritlm import GritLM
from gritlm.serve.engine.requests import EngineEvent, ModelJob, RequestFailed, RequestFinished
from gritlm.serve.engine.scheduler import Scheduler
from gritlm.serve.errors import SERVER, ApiError

log = logging.getLogger(__name__)

_MARGIN_S = 0.01  # seconds beyond the time at which the thread counts as hung
_KEPT_S = 1.0  # seconds for which a result is reused


class HealthCheck:
    """Health probe: the model reads a token on its thread, without counting as a request.

    Args:
        model: the model.
        scheduler: the scheduler of its thread.
        timeout_s: seconds in which the thread has to read the token, or to poll its queue.
    """

    def __init__(self, model: GritLM, scheduler: Scheduler, timeout_s: float) -> None:
        self._model = model
        self._scheduler = scheduler
        self._timeout_s = timeout_s
        self._check: asyncio.Task[str] | None = None
        self._checked = 0.0

    async def require_healthy(self) -> None:
        """Check the model's thread, or reuse a recent result.

        Raises:
            ApiError: for a thread that is not healthy, with the problem.
        """
        if self._check is None or self._is_old(self._check):
            self._check = asyncio.create_task(self._run_check())
        if problem := await asyncio.shield(self._check):
            raise ApiError(503, problem, code="unhealthy", type=SERVER)

    def _is_old(self, check: asyncio.Task[str]) -> bool:
        return check.done() and monotonic() >= self._checked + _KEPT_S

    async def _run_check(self) -> str:
        """Return the problem; empty for a healthy thread."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[EngineEvent] = loop.create_future()

        def receive(event: EngineEvent) -> None:
            if not result.done():
                result.set_result(event)

        def deliver(event: EngineEvent) -> None:
            with suppress(RuntimeError):  # the event loop is closed, so no request waits
                loop.call_soon_threadsafe(receive, event)

        handle = self._scheduler.submit_uncounted(ModelJob(self._read_one, nested=True), deliver)
        try:
            async with asyncio.timeout(self._timeout_s):
                return _problem(await result)
        except TimeoutError:
            if await self._is_busy():
                return ""
            return f"The model did not read a token within {self._timeout_s:g} seconds"
        finally:
            self._checked = monotonic()
            handle.cancel()

    async def _is_busy(self) -> bool:
        """Return whether the thread polls its queue, although it is too busy for the check."""
        left = self._timeout_s - self._scheduler.stats().silent_s
        if left > self._timeout_s / 2:
            return True
        await asyncio.sleep(max(0.0, left) + _MARGIN_S)
        return self._scheduler.stats().silent_s < self._timeout_s

    def _read_one(self, _: Callable[[], None]) -> bool:
        with torch.inference_mode():
            ids_BL = torch.zeros(1, 1, dtype=torch.long, device=self._model.device)
            hidden_BLD = self._model.lm.hidden(ids_BL, causal=True)
        return bool(torch.isfinite(hidden_BLD).all())


def _problem(event: EngineEvent) -> str:
    if isinstance(event, RequestFailed):
        log.error("the model could not read a token", exc_info=event.error)
        return "The model could not read a token"
    if isinstance(event, RequestFinished) and event.value is True:
        return ""
    return "The model's states are not finite"
