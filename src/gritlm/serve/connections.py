"""Connections: so many at once, and none that is kept waiting by its client."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic

import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from gritlm.serve.errors import crowded

HEADER_S = 20.0  # in which the header of a request has to arrive
WRITE_S = 60.0  # that a client may take nothing of what is written to it
DRAIN_WRITE_S = 5.0  # the same while the server shuts down


def protocol(most: int) -> type[H11Protocol]:
    """HTTP/1.1 that answers one more connection than ``most`` with 503 and closes it."""

    class Bounded(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > most:
                self.connections.discard(self)
                transport.write(_REFUSAL)
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
        self._known: dict[H11Protocol, _Wait] = {}

    def __call__(self, connections: set[H11Protocol], *, draining: bool) -> None:
        now, before, self._known = monotonic(), self._known, {}
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


def _waits_for(connection: H11Protocol, draining: bool) -> tuple[float | None, object]:
    """Seconds that a connection may wait, and what it waits for: another thing is progress."""
    if connection.flow.write_paused:
        left = connection.transport.get_write_buffer_size()
        return DRAIN_WRITE_S if draining else WRITE_S, left
    cycle = connection.cycle
    if cycle is None or cycle.response_complete:  # the header of the next request
        return HEADER_S, id(cycle)
    return None, None


def _refusal() -> bytes:
    error = crowded()
    body = orjson.dumps(error.body())
    head = [
        f"HTTP/1.1 {error.status} Service Unavailable", "Content-Type: application/json",
        f"Content-Length: {len(body)}", "Connection: close",
        *(f"{name}: {value}" for name, value in error.headers.items()),
    ]  # fmt: skip
    return "\r\n".join([*head, "", ""]).encode() + body


_REFUSAL = _refusal()
