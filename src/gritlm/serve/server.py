"""HTTP server over a loaded model; SIGTERM finishes accepted requests, then exits."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import uvicorn

from gritlm.errors import InputError
from gritlm.lm.gritlm import GritLM
from gritlm.runtime import give_back_memory
from gritlm.serve.app import create_app
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from gritlm.serve.engine.scheduler import Scheduler
from gritlm.serve.http.connections import KEEP_ALIVE_S, Sweep, protocol
from gritlm.serve.service import Service
from gritlm.serve.stores import StoreAt, open_engines

log = logging.getLogger(__name__)

_SWEEP_TICKS = 5  # tenths of a second between two sweeps of the connections
_KEY_TICKS = 10  # tenths of a second between two looks at the key file
_MEMORY_TICKS = 300  # tenths of a second between two returns of free memory
_SLOW_READER_S = 5  # seconds for clients to read complete responses at shutdown


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


class Server(uvicorn.Server):
    """A uvicorn server that finishes accepted requests before it stops.

    Args:
        service: the service behind the routes.
        on_listening: called with the server's address once it listens.
    """

    def __init__(self, service: Service, on_listening: Callable[[str], None]) -> None:
        settings = service.settings
        super().__init__(
            uvicorn.Config(
                create_app(service),
                host=settings.host,
                port=settings.port,
                loop="asyncio",
                http=protocol(settings.max_connections),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=_SLOW_READER_S,
            )
        )
        self._service = service
        self._on_listening = on_listening
        self._drain_deadline: float | None = None
        self._sweep = Sweep()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or []:
            self._on_listening(address(listening))

    def drain(self) -> None:
        """Refuse new requests, and stop when all are answered or ``drain_s`` is over.

        The port stays open meanwhile, so that new clients get an error that sends them elsewhere.
        """
        self._service.draining = True
        self._drain_deadline = time.monotonic() + self._service.settings.drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop immediately at the second."""
        del sig, frame
        if self._drain_deadline is None:
            self.drain()
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._drain_deadline is not None:
            self.should_exit |= (
                not self._service.running or time.monotonic() >= self._drain_deadline
            )
        if counter % _SWEEP_TICKS == 0:
            self._sweep(self.server_state.connections, draining=self._drain_deadline is not None)  # type: ignore[arg-type]
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
        await self._stop_accepting()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # the event loop closes them here

    async def _stop_accepting(self) -> None:
        """Stop accepting connections before the listening sockets close.

        Otherwise asyncio drops connections that are half accepted.
        """
        loop = asyncio.get_running_loop()
        for server in self.servers:
            for listening in server.sockets:
                loop.remove_reader(listening)
        await asyncio.sleep(0)  # accepted connections are registered here


def address(listening: socket.socket) -> str:
    """Return the URL of a listening socket, such as ``http://127.0.0.1:8000``."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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
