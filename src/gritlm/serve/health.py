"""Whether the model's thread is well: tried once for all who ask at about the same time."""

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

_LATER_S = 0.01
_KEPT_S = 1.0  # how long an answer is good for others


class HealthCheck:
    """Has the model read a token on its thread. That counts as no request, and needs no room.

    Args:
        timeout_s: in which the thread has to do that, or to look at its queue.
    """

    def __init__(self, model: GritLM, scheduler: Scheduler, timeout_s: float) -> None:
        self._model = model
        self._scheduler = scheduler
        self._timeout_s = timeout_s
        self._trying: asyncio.Task[str] | None = None
        self._tried = 0.0

    async def require_well(self) -> None:
        """
        Raises:
            ApiError: saying what is wrong.
        """
        if self._trying is None or self._is_old(self._trying):
            self._trying = asyncio.create_task(self._try())
        if problem := await asyncio.shield(self._trying):
            raise ApiError(503, problem, code="unhealthy", type=SERVER)

    def _is_old(self, tried: asyncio.Task[str]) -> bool:
        return tried.done() and monotonic() >= self._tried + _KEPT_S

    async def _try(self) -> str:
        """What is wrong; empty when nothing is."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[EngineEvent] = loop.create_future()

        def told(event: EngineEvent) -> None:
            if not answer.done():
                answer.set_result(event)

        def deliver(event: EngineEvent) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(told, event)

        ticket = self._scheduler.submit_aside(ModelJob(self._read_one, beside=True), deliver)
        try:
            async with asyncio.timeout(self._timeout_s):
                return _problem(await answer)
        except TimeoutError:
            if await self._is_busy():
                return ""
            return f"The model did not answer within {self._timeout_s:g} seconds"
        finally:
            self._tried = monotonic()
            ticket.cancel()

    async def _is_busy(self) -> bool:
        """Whether the thread looks at its queue, though it has no time for us."""
        left = self._timeout_s - self._scheduler.stats().silent_s
        if left > self._timeout_s / 2:
            return True
        await asyncio.sleep(max(0.0, left) + _LATER_S)
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
