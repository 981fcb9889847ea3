"""A replica: the server of ``gritlm serve`` without its socket, which runs requests of gateways."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from starlette.types import Message

from gritlm.runtime import bound_kernel_caches, give_back_memory, in_a_thread_of_its_own
from gritlm.scale.serving.asgi_messages import responses
from gritlm.scale.serving.autoscaling import RUNNING, WAITING
from gritlm.scale.serving.config import ServingConfig
from gritlm.scale.serving.router import WRITES
from gritlm.scale.serving.routes import Route
from gritlm.scale.serving.shared_stores import SharedStores
from gritlm.serve.app import create_app
from gritlm.serve.engine.scheduler import Scheduler
from gritlm.serve.errors import ApiError
from gritlm.serve.http import logging as server_logs
from gritlm.serve.service import Service

log = logging.getLogger(__name__)

NOT_WRITER = "gritlm.not_writer"  # type of the only message of a write that went to a reader
_TICK_S = 1.0
_PROMOTION_S = 5.0  # seconds between two looks for a store without a writer; a write looks too
_MEMORY_TICKS = 30


class Replica:
    """The model, its scheduler and the HTTP application in a replica of Ray Serve.

    Args:
        settings: settings of the application.
        name: name of the replica in metrics; None for the one that Ray Serve gave it.
    """

    def __init__(self, settings: ServingConfig, name: str | None = None) -> None:
        from gritlm.lm import threads

        bound_kernel_caches()
        server_logs.configure(json=settings.log_format == "json", level=logging.INFO)
        if settings.replicas.threads is not None:
            threads.keep(settings.replicas.threads)
        model = in_a_thread_of_its_own(settings.model.load)
        limits = settings.limits
        self.name = name or _name()
        self._scheduler = Scheduler(model, limits)
        longest = self._scheduler.max_model_len
        self._stores = SharedStores(settings.places(), model, longest=longest)
        try:
            self._scheduler.start()
            self._service = Service(
                model,
                self._scheduler,
                settings.server,
                self._stores.engines,
                budget=limits.budget_for(model),
            )
            self._app = create_app(self._service)
        except BaseException:
            self._stores.close()
            raise
        self._housekeeping: asyncio.Task[None] | None = None
        self._promotes_at = 0.0

    async def respond(
        self, scope: Mapping[str, Any], body: bytes, *, route: Route
    ) -> AsyncGenerator[list[Message]]:
        """Run a request and yield the messages of its response.

        Args:
            scope: scope of the request.
            body: its body.
            route: its route; a write to a store that this replica only reads is not run.

        Yields:
            Batches of ASGI messages; one of the type ``NOT_WRITER`` for a write that was not run.
        """
        self._keep_house()
        if route.writes and route.store in self._stores.sought:
            await self._promote()
            if route.store in self._stores.sought:
                yield [{"type": NOT_WRITER}]
                return
        async for batch in responses(self._app, scope, body):
            yield batch

    async def exposition(self) -> tuple[str, bytes]:
        """Return the name of the replica and its metrics for Prometheus."""
        return self.name, self._service.metrics.exposition()

    async def check_health(self) -> None:
        """Check that the model reads a token, as ``GET /health`` does.

        Raises:
            RuntimeError: if it does not; Ray Serve then replaces the replica.
        """
        self._keep_house()
        try:
            await self._service.require_healthy()
        except ApiError as error:
            raise RuntimeError(error.message) from None

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the load of the replica, for the autoscaling policy."""
        stats = self._scheduler.stats()
        return {WAITING: float(stats.waiting_tokens), RUNNING: float(stats.running)}

    async def record_routing_stats(self) -> dict[str, Any]:
        """Return the stores that the replica writes to, for the request router."""
        if monotonic() > self._promotes_at:
            self._promotes_at = monotonic() + _PROMOTION_S
            await self._promote()
        return {WRITES: list(self._stores.written)}

    async def __del__(self) -> None:
        """End the replica, once Ray Serve has drained it."""
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._housekeeping
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._scheduler.stop()
        self._service.close()
        if self._scheduler.ended:
            self._stores.close()

    async def _promote(self) -> None:
        """Become the writer of stores without one."""
        if self._stores.sought:
            apis = self._app.state.documents
            await self._service.run_in_store_thread(self._stores.promote, self._service, apis)

    def _keep_house(self) -> None:
        if self._housekeeping is None:
            self._housekeeping = asyncio.ensure_future(self._tick())

    async def _tick(self) -> None:
        """Read a changed key file, and return free memory, now and then."""
        number = 0
        while True:
            await asyncio.sleep(_TICK_S)
            number += 1
            self._service.key_ring.refresh()
            if number % _MEMORY_TICKS == 0:
                await asyncio.to_thread(give_back_memory)


def _name() -> str:
    from ray import serve

    return str(serve.get_replica_context().replica_id.unique_id)
