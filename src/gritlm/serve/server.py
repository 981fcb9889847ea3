"""HTTP server over a loaded model; SIGTERM finishes accepted requests, then exits."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from gritlm.errors import InputError
from gritlm.lm.gritlm import GritLM
from gritlm.runtime import give_back_memory
from gritlm.serve.app import create_app
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from gritlm.serve.engine.scheduler import Scheduler
from gritlm.serve.http.bounded_server import BoundedServer
from gritlm.serve.service import Service
from gritlm.serve.stores import StoreAt, open_engines

log = logging.getLogger(__name__)

_KEY_TICKS = 10  # tenths of a second between two looks at the key file
_MEMORY_TICKS = 300  # tenths of a second between two returns of free memory


def bind(settings: ServerConfig) -> socket.socket:
    """Bind a socket to the configured address, before a model is loaded; it does not listen yet.

    Args:
        settings: host and port.

    Raises:
        InputError: for an address in use, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off for sockets that name TCP; else small responses wait 40 ms
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
    except OSError as error:
        sock.close()
        raise InputError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}; "
            "choose another --host or --port"
        ) from None
    return sock


@contextmanager
def running(
    model: GritLM, settings: ServerConfig, limits: Limits, stores: Sequence[StoreAt] = ()
) -> Iterator[Service]:
    """Run a service and its model's thread inside the context, and stop both at its end.

    When the model's thread does not end in time, the stores are not closed and stay as after a
    crash.

    Args:
        model: the model.
        settings: settings of the HTTP server.
        limits: limits of the scheduler.
        stores: the document stores.

    Yields:
        The service.
    """
    scheduler = Scheduler(model, limits)
    engines = open_engines(stores, model, longest=scheduler.max_model_len)
    try:
        scheduler.start()
        service = Service(model, scheduler, settings, engines, budget=limits.budget_for(model))
        try:
            yield service
        finally:
            scheduler.stop()
            service.close()
    finally:
        if scheduler.ended:
            for engine in engines.values():
                engine.close()


class Server(BoundedServer):
    """The server of a service with a model.

    Args:
        service: the service behind the routes.
        on_listening: called with the server's address once it listens.
    """

    def __init__(self, service: Service, on_listening: Callable[[str], None]) -> None:
        super().__init__(create_app(service), service, service.settings, on_listening)
        self._service = service

    async def on_tick(self, counter: int) -> bool:
        if counter % _KEY_TICKS == 0:
            self._service.key_ring.refresh()
        if counter % _MEMORY_TICKS == 0:
            asyncio.get_running_loop().run_in_executor(None, give_back_memory)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if left := self._service.running:
            log.warning("%d requests did not end in time", left)
        scheduler = self._service.scheduler
        await asyncio.to_thread(scheduler.stop)  # fails the requests that are left
        if not scheduler.ended:
            log.warning("the model's thread did not stop in time; the process exits without it")
        await super().shutdown(sockets)


def serve(
    model: GritLM,
    sock: socket.socket,
    settings: ServerConfig,
    limits: Limits,
    *,
    stores: Sequence[StoreAt] = (),
    on_listening: Callable[[Service, str], None],
) -> bool:
    """Serve on a socket until SIGTERM or ctrl-C.

    Args:
        model: the model.
        sock: a bound socket; see :func:`bind`.
        settings: settings of the HTTP server.
        limits: limits of the scheduler.
        stores: the document stores.
        on_listening: called with the service and its address once it listens.

    Returns:
        Whether the model's thread has ended. If not, it is inside a forward pass, and the process
        should exit without waiting for it.
    """
    with running(model, settings, limits, stores) as service:
        Server(service, lambda url: on_listening(service, url)).run(sockets=[sock])
    return service.scheduler.ended
