"""Connections: a bounded number of them, and none kept waiting by its client."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import Any

from gritlm.serve.errors import crowded
from gritlm.serve.http.protocol import BUFFER_BYTES, Connection, raw_answer

KEEP_ALIVE_S = 75  # idle, between two requests; a proxy's own limit has to be below it
HEADER_S = 20.0  # from the first byte of a request, or a new connection, to the end of its header
WRITE_S = 60.0  # that a client may take nothing of what is written to it
DRAIN_WRITE_S = 5.0  # the same while the server shuts down


def protocol(most: int) -> type[Connection]:
    """HTTP/1.1 that answers one more connection than ``most`` with 503 and closes it."""
    buffer = bytearray(BUFFER_BYTES)
    refusal = raw_answer(crowded())

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
    """A connection that waits for its client, for the same thing ``since`` then."""

    on: object
    since: float


class Sweep:
    """Looks at all connections now and then, and cuts off clients that keep theirs waiting."""

    def __init__(self) -> None:
        self._known: dict[Connection, _Wait] = {}

    def __call__(self, connections: set[Connection], *, draining: bool) -> None:
        now = monotonic()
        before = self._known
        self._known = {}
        for each in connections:
            patience, on = _waits_for(each, draining)
            if patience is None:
                continue
            wait = before.get(each)
            if wait is None or wait.on != on:
                wait = _Wait(on, now)
            self._known[each] = wait
            if now - wait.since >= patience:
                each.transport.abort()


def _waits_for(connection: Connection, draining: bool) -> tuple[float | None, object]:
    """Seconds that a connection may wait, and what it waits for: another thing is progress."""
    if connection.flow.write_paused:
        left = connection.transport.get_write_buffer_size()
        return DRAIN_WRITE_S if draining else WRITE_S, left
    cycle = connection.cycle
    if connection.awaits_header and (cycle is None or cycle.response_complete):
        return HEADER_S, id(cycle)
    return None, None
