"""Limits on request bodies, and cancellation of requests whose client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gritlm.serve.errors import ApiError, no_memory_for_bodies

REFUSED = "gritlm.refused"  # key in the state of a request whose body has too many pieces
FREE_BYTES = 2**16  # of each body, not counted: there is always room for small requests


class ClientGoneError(Exception):
    """The client disconnected before its response was complete."""


class BodyLimit:
    """ASGI middleware that reads the whole body, then runs the app until the client disconnects.

    When the client disconnects, the app is cancelled, so that its KV slots on the model's thread
    are released immediately.

    Args:
        app: the next layer.
        max_bytes: the most bytes of one body.
        max_total_bytes: the most bytes of all bodies together, until their requests have ended.
        timeout_s: seconds in which a body has to arrive.
    """

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, max_total_bytes: int, timeout_s: float
    ) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._budget = _Budget(max_total_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self._budget.share() as share:
            try:
                async with asyncio.timeout(self._timeout_s):
                    body = await self._read(scope, receive, share)
            except TimeoutError:
                await self._too_slow().response()(scope, receive, send)
            except ApiError as error:
                await error.response()(scope, receive, send)
            else:
                await self._run(scope, receive, send, body)

    async def _read(self, scope: Scope, receive: Receive, share: _Share) -> bytes:
        """Return the body.

        Raises:
            ApiError: if the body is larger than the limit (an announced length is refused without
                reading the body), if all bodies together are, or if the body has too many pieces.
            ClientGoneError: if the client disconnects.
        """
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal():
            self._claim(int(announced), share)
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            if scope.get("state", {}).get(REFUSED):
                raise self._too_fine()
            body += message.get("body", b"")
            self._claim(len(body), share)
            if not message.get("more_body"):
                return bytes(body)

    def _claim(self, size: int, share: _Share) -> None:
        if size > self._max_bytes:
            raise self._too_large()
        if not share.grow(size - FREE_BYTES):
            raise no_memory_for_bodies(self._budget.total)

    async def _run(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        gone = asyncio.ensure_future(_disconnect(receive))
        replayed = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            if (message := next(replayed, None)) is not None:
                return message
            await asyncio.shield(gone)
            return {"type": "http.disconnect"}

        complete = False

        async def watch(message: Message) -> None:
            nonlocal complete
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body")

        running = asyncio.ensure_future(self.app(scope, replay, watch))
        try:
            await asyncio.wait((running, gone), return_when=asyncio.FIRST_COMPLETED)
            if not running.done() and not complete:
                raise ClientGoneError
            await running  # a client counts as gone, too, once its response is complete
        finally:
            await _cancel(running)
            await _cancel(gone)

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"The body is larger than {self._max_bytes:,} bytes; send less in one request, or "
            "start the server with a larger --max-body-mb",
            code="request_too_large",
        )

    def _too_slow(self) -> ApiError:
        message = f"The body did not arrive within {self._timeout_s:g} seconds"
        return ApiError(408, message, code="request_timeout")

    def _too_fine(self) -> ApiError:
        message = "The body arrives in very small chunks; send it with a Content-Length"
        return ApiError(400, message, code="invalid_body")


class _Budget:
    """Memory budget of all bodies together, in bytes."""

    def __init__(self, total: int) -> None:
        self.total = self.left = total

    @contextmanager
    def share(self) -> Iterator[_Share]:
        """Provide the share of one body, and return it to the budget at the end."""
        share = _Share(self)
        try:
            yield share
        finally:
            self.left += share.size


class _Share:
    """Share of one body in a budget."""

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget
        self.size = 0

    def grow(self, size: int) -> bool:
        """Grow the share to ``size`` bytes in all, and return whether there was room."""
        more = max(0, size - self.size)
        if more > self._budget.left:
            return False
        self._budget.left -= more
        self.size += more
        return True


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _cancel(task: asyncio.Future[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task
