"""A request that runs through an ASGI application in another process, as batches of messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp, Message, Scope

_KEPT = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string")
_KEPT_TOO = ("root_path", "headers", "client", "server")
_GRACE_S = 5.0  # seconds for an application to end after its client has gone


def portable(scope: Scope) -> dict[str, Any]:
    """Return the part of a scope that another process can read."""
    return {name: scope[name] for name in (*_KEPT, *_KEPT_TOO) if name in scope}


async def responses(
    app: ASGIApp, scope: Mapping[str, Any], body: bytes
) -> AsyncGenerator[list[Message]]:
    """Yield the messages of a response in batches: those that are ready together.

    When the generator is closed early, the application sees that its client disconnected.

    Args:
        app: the application.
        scope: scope of the request, from :func:`portable`.
        body: the whole body of the request.

    Yields:
        Messages in the order in which the application sent them.
    """
    queue: asyncio.Queue[Message | None] = asyncio.Queue()
    gone = asyncio.Event()
    unread = [body]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        try:
            await app({**scope, "state": {}}, receive, queue.put)
        finally:
            queue.put_nowait(None)

    running = asyncio.ensure_future(run())
    try:
        ended = False
        while not ended:
            batch = [await queue.get()]
            while not queue.empty():
                batch.append(queue.get_nowait())
            ended = batch[-1] is None
            if ready := [message for message in batch if message is not None]:
                yield ready
        await running
    finally:
        gone.set()
        await asyncio.wait((running,), timeout=_GRACE_S)
        running.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await running
