"""HTTP server of an ASGI application: limits on connections, draining before it stops."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from gritlm.serve.config import ServerConfig
from gritlm.serve.http.connections import KEEP_ALIVE_S, Sweep, protocol

_SWEEP_TICKS = 5  # tenths of a second between two sweeps of the connections
_SLOW_READER_S = 5  # seconds for clients to read complete responses at shutdown


class AcceptedRequests(Protocol):
    """Requests of an application.

    Attributes:
        running: number of running requests.
        draining: whether new requests are refused.
    """

    running: int
    draining: bool


class BoundedServer(uvicorn.Server):
    """A uvicorn server that finishes accepted requests before it stops.

    Args:
        app: the application.
        work: its requests.
        settings: settings of the server.
        on_listening: called with the server's address once it listens.
        lifespan: whether the application takes part in the lifespan protocol.
    """

    def __init__(
        self,
        app: ASGIApp,
        work: AcceptedRequests,
        settings: ServerConfig,
        on_listening: Callable[[str], None],
        *,
        lifespan: bool = False,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                loop="asyncio",
                http=protocol(settings.max_connections),
                ws="none",
                lifespan="on" if lifespan else "off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=_SLOW_READER_S,
            )
        )
        self._work = work
        self._drain_s = settings.drain_s
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
        self._work.draining = True
        self._drain_deadline = time.monotonic() + self._drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop immediately at the second."""
        del sig, frame
        if self._drain_deadline is None:
            self.drain()
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._drain_deadline is not None:
            self.should_exit |= not self._work.running or time.monotonic() >= self._drain_deadline
        if counter % _SWEEP_TICKS == 0:
            self._sweep(self.server_state.connections, draining=self._drain_deadline is not None)  # type: ignore[arg-type]
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._stop_accepting()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # the event loop closes them here

    async def _stop_accepting(self) -> None:
        """Stop accepting connections before the listening sockets close.

        Otherwise asyncio drops connections that are half accepted; uvloop does not.
        """
        loop = asyncio.get_running_loop()
        if not isinstance(loop, asyncio.BaseEventLoop):
            return
        for server in self.servers:
            for listening in server.sockets:
                loop.remove_reader(listening)
        await asyncio.sleep(0)  # accepted connections are registered here


def address(listening: socket.socket) -> str:
    """Return the URL of a listening socket, such as ``http://127.0.0.1:8000``."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
