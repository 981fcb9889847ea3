"""Limit on the number of connections, and timeouts of clients that keep theirs waiting."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import Any

from gritlm.serve.errors import too_many_connections
from gritlm.serve.http.protocol import BUFFER_BYTES, Connection, raw_answer

KEEP_ALIVE_S = 75  # idle time between two requests; the limit of a proxy has to be below it
HEADER_S = 20.0  # from the first byte of a request, or a new connection, to the end of its header
WRITE_S = 60.0  # longest time in which a client reads nothing of a response
DRAIN_WRITE_S = 5.0  # the same, while the server is shutting down


def protocol(most: int) -> type[Connection]:
    """Return a protocol class that answers connections beyond ``most`` with 503 and closes them."""
    buffer = bytearray(BUFFER_BYTES)
    refusal = raw_answer(too_many_connections())

    class Bounded(Connection):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, buffer=buffer, **options)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > most:
                self.connections.discard(self)
                transport.write(refusal)
                transport.close()

    return Bounded


@dataclass(frozen=True)
class _Wait:
    """Wait of a connection for its client.

    Attributes:
        on: state of the connection; another state is progress.
        since: time at which the wait began, in seconds.
    """

    on: object
    since: float


class Sweep:
    """Periodic check of all connections, which aborts those that wait too long for their client."""

    def __init__(self) -> None:
        self._known: dict[Connection, _Wait] = {}

    def __call__(self, connections: set[Connection], *, draining: bool) -> None:
        now = monotonic()
        before = self._known
        self._known = {}
        for connection in connections:
            timeout_s, on = _waits_for(connection, draining)
            if timeout_s is None:
                continue
            wait = before.get(connection)
            if wait is None or wait.on != on:
                wait = _Wait(on, now)
            self._known[connection] = wait
            if now - wait.since >= timeout_s:
                connection.transport.abort()


def _waits_for(connection: Connection, draining: bool) -> tuple[float | None, object]:
    """Return the timeout of a wait in seconds, None without a wait, and the state it is in."""
    if connection.flow.write_paused:
        left = connection.transport.get_write_buffer_size()
        return DRAIN_WRITE_S if draining else WRITE_S, left
    cycle = connection.cycle
    if connection.awaits_header and (cycle is None or cycle.response_complete):
        return HEADER_S, id(cycle)
    return None, None
