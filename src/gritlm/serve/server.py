"""From a loaded model to a listening server, and back: SIGTERM ends what was begun, then leaves."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
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

log = logging.getLogger(__name__)

_TICKS = 5  # of a tenth of a second, from one look at the connections to the next
_MEMORY_TICKS = 300  # from one return of free memory to the next
_LEAVING_S = 5  # for clients that read slowly, once their answers are complete


@dataclass(frozen=True)
class StoreAt:
    """Where documents are.

    Attributes:
        read_only: only ask; any number of servers may.
    """

    folder: Path
    read_only: bool = False


def bound(settings: ServerConfig) -> socket.socket:
    """A socket on the address, before a model is loaded for it; it does not listen yet.

    Raises:
        InputError: for an address that is taken, or none of this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off for sockets that name TCP; else small answers wait 40 ms
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((settings.host, settings.port))
    except OSError as error:
        made.close()
        raise InputError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}; "
            "name another --host or --port"
        ) from None
    return made


@contextmanager
def running(
    model: GritLM, settings: ServerConfig, limits: Limits, store: StoreAt | None = None
) -> Iterator[Service]:
    """A service whose model's thread runs. All of it has ended afterwards, but for a thread that
    does not end in time: with it the store stays as it is, as after a crash."""
    scheduler = Scheduler(model, limits)
    engine = None
    if store is not None:
        from gritlm.rag import needs

        needs.require()
        from gritlm.rag.engine import RagEngine

        engine = RagEngine.open(
            store.folder, model, read_only=store.read_only, longest=scheduler.max_model_len
        )
    try:
        scheduler.start()
        service = Service(model, scheduler, settings, engine, budget=limits.budget_for(model))
        try:
            yield service
        finally:
            scheduler.stop()
            service.close()
    finally:
        if engine is not None and scheduler.ended:
            engine.close()


class Server(uvicorn.Server):
    """Serves until it is told to stop, and then answers what it has taken.

    Args:
        told: is handed the server's address once it listens.
    """

    def __init__(self, service: Service, told: Callable[[str], None]) -> None:
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
                timeout_graceful_shutdown=_LEAVING_S,
            )
        )
        self._service = service
        self._told = told
        self._until: float | None = None
        self._sweep = Sweep()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or []:
            self._told(address(each))

    def drain(self) -> None:
        """Take nothing new, and leave when all is answered or the time for that is over.

        The port stays open meanwhile, so that who asks is told to ask another server.
        """
        self._service.draining = True
        self._until = time.monotonic() + self._service.settings.drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, another one leaves at once."""
        del sig, frame
        if self._until is None:
            self.drain()
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._until is not None:
            self.should_exit |= not self._service.running or time.monotonic() >= self._until
        if counter % _TICKS == 0:
            self._sweep(self.server_state.connections, draining=self._until is not None)  # type: ignore[arg-type]
        if counter % _MEMORY_TICKS == 0:
            asyncio.get_running_loop().run_in_executor(None, give_back_memory)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if left := self._service.running:
            log.warning("%d requests did not end in time", left)
        scheduler = self._service.scheduler
        await asyncio.to_thread(scheduler.stop)  # it tells them
        if not scheduler.ended:
            log.warning("the model's thread is in the middle of something and is left behind")
        await self._stop_accepting()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # they are closed there

    async def _stop_accepting(self) -> None:
        """Before the listening sockets close: asyncio drops a connection that is half accepted."""
        loop = asyncio.get_running_loop()
        for server in self.servers:
            for listening in server.sockets:
                loop.remove_reader(listening)
        await asyncio.sleep(0)  # who was accepted has arrived


def address(listening: socket.socket) -> str:
    """``http://127.0.0.1:8000``."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    model: GritLM,
    sock: socket.socket,
    settings: ServerConfig,
    limits: Limits,
    *,
    store: StoreAt | None = None,
    told: Callable[[Service, str], None],
) -> bool:
    """Serve on a socket until SIGTERM or ctrl-C.

    Args:
        told: is handed the service and its address once it listens.

    Returns:
        Whether all has ended; else a thread is in the middle of something, and the process should
        leave without waiting for it.
    """
    with running(model, settings, limits, store) as service:
        Server(service, lambda where: told(service, where)).run(sockets=[sock])
    return service.scheduler.ended
