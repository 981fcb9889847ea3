"""A request's body, whole and of bounded size, before anything else is done for it; and clients
that hang up."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gritlm.serve.errors import ApiError


class ClientGoneError(Exception):
    """The client hung up before its answer was complete."""


class Bodies:
    """Reads the body, then runs the app for as long as the client is there.

    When the client hangs up, whatever the app does for it is cancelled, so that its places on the
    model's thread are free at once.

    Args:
        timeout_s: in which the body has to arrive.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout_s: float) -> None:
        self.app, self._max_bytes, self._timeout_s = app, max_bytes, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await self._read(Headers(scope=scope), receive)
        except TimeoutError:
            await self._slow().response()(scope, receive, send)
        except ApiError as error:
            await error.response()(scope, receive, send)
        else:
            await self._run(scope, receive, send, body)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        """
        Raises:
            ApiError: for more bytes than are taken; without reading them when they are announced.
        """
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise self._large()
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            size += len(message.get("body", b""))
            if size > self._max_bytes:
                raise self._large()
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                return b"".join(parts)

    async def _run(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        gone = asyncio.ensure_future(_gone(receive))
        replayed = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again() -> Message:
            if (message := next(replayed, None)) is not None:
                return message
            await asyncio.shield(gone)
            return {"type": "http.disconnect"}

        complete = False

        async def noticed(message: Message) -> None:
            nonlocal complete
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body")

        running = asyncio.ensure_future(self.app(scope, again, noticed))
        try:
            await asyncio.wait((running, gone), return_when=asyncio.FIRST_COMPLETED)
            if not running.done() and not complete:
                raise ClientGoneError
            await running  # a connection counts as gone once its answer is complete
        finally:
            await _cancelled(running)
            await _cancelled(gone)

    def _large(self) -> ApiError:
        return ApiError(
            413, f"The body is larger than {self._max_bytes:,} bytes; send less at once, or start "
            "the server with a larger --max-body-mb", code="request_too_large",
        )  # fmt: skip

    def _slow(self) -> ApiError:
        return ApiError(
            408, f"The body did not arrive within {self._timeout_s:g} seconds",
            code="request_timeout", headers={"Connection": "close"},
        )  # fmt: skip


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _cancelled(task: asyncio.Future[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task
