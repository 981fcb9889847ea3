"""The gateway: an ASGI application that hands each request to the replica that its route names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gritlm.errors import one_line
from gritlm.printable import excerpt
from gritlm.scale.serving import failures
from gritlm.scale.serving.asgi_messages import portable
from gritlm.scale.serving.config import ServingConfig
from gritlm.scale.serving.replica import NOT_WRITER
from gritlm.scale.serving.replica_metrics import merged
from gritlm.scale.serving.routes import Route, route_of
from gritlm.serve.app import open_paths
from gritlm.serve.errors import ApiError, draining
from gritlm.serve.http import paths
from gritlm.serve.http.access_log import IncomingBody, ResponseSender, begin_request
from gritlm.serve.http.auth import RequireHost, RequireKey, has_body
from gritlm.serve.http.body_limit import BodyLimit, ClientGoneError
from gritlm.serve.key_file import KeyRing
from gritlm.serve.metrics import CONTENT_TYPE

log = logging.getLogger(__name__)

_ATTEMPTS = 3  # replicas that are tried for a request whose response has not begun
_WRITER_S = 60.0  # seconds for which a write waits for a replica that writes to its store
_WRITER_RETRY_S = 0.5
_KEYS_S = 1.0  # seconds between two looks at the key file
_HEALTH_MARGIN_S = 5.0


class Gateway:
    """The application behind Ray Serve's proxy, or a socket of its own.

    It checks the key and the size of a request before it reads the body, as ``gritlm serve`` does,
    and ends streams of replicas that die with an error event.

    Args:
        replicas: handle of the replicas.
        settings: settings of the application.
        behind_proxy: whether Ray Serve's proxy receives the requests, and adds their ids.

    Attributes:
        running: number of running requests.
        draining: whether new requests are refused.
    """

    def __init__(self, replicas: Any, settings: ServingConfig, *, behind_proxy: bool) -> None:
        self.running = 0
        self.draining = False
        self._behind_proxy = behind_proxy
        server = settings.server
        stores = tuple(store.name for store in settings.places())
        self._ring = KeyRing(server.api_keys, server.key_file, stores)
        forward: ASGIApp = Forward(replicas, stores, server.health_timeout_s)
        limited = BodyLimit(
            forward,
            max_bytes=server.max_body_bytes,
            max_total_bytes=server.max_total_body_bytes,
            timeout_s=server.body_timeout_s,
        )
        keyed = RequireKey(
            limited,
            ring=self._ring,
            needs_key=server.needs_key,
            open_paths=open_paths(server),
        )
        self._app = RequireHost(keyed, hosts=server.hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        request_id = begin_request(scope).encode()
        headers = [each for each in scope["headers"] if each[0] != b"x-request-id"]
        scope = {**scope, "headers": [*headers, (b"x-request-id", request_id)]}
        body = IncomingBody(receive, announced=has_body(Headers(scope=scope)))
        if self._behind_proxy:
            send = _without_id(send)
        response = ResponseSender(send, request_id.decode(), scope["path"], body)
        is_api = scope["path"].startswith(paths.API)
        if self.draining and (is_api or scope["path"] == paths.HEALTH):
            await draining().response()(scope, body.receive, response.send)
        elif not is_api:
            await self._run(scope, body, response)
        else:
            self.running += 1
            try:
                await self._run(scope, body, response)
            finally:
                self.running -= 1

    async def _run(self, scope: Scope, body: IncomingBody, response: ResponseSender) -> None:
        with suppress(ClientGoneError):
            await self._app(scope, body.receive, response.send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Run the lifespan protocol, and read a changed key file in between."""
        await receive()
        refreshing = asyncio.ensure_future(self._refresh_keys())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        refreshing.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def _refresh_keys(self) -> None:
        while True:
            await asyncio.sleep(_KEYS_S)
            self._ring.refresh()


def _without_id(send: Send) -> Send:
    """Return a sender without the header of the request id, which Ray Serve adds itself."""

    async def pass_on(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [each for each in message["headers"] if each[0].lower() != b"x-request-id"]
            message = {**message, "headers": headers}
        await send(message)

    return pass_on


class Forward:
    """ASGI application that runs each request on a replica.

    Args:
        replicas: handle of the replicas.
        stores: names of the document stores.
        health_timeout_s: seconds in which a replica has to answer a health check.
    """

    def __init__(self, replicas: Any, stores: tuple[str, ...], health_timeout_s: float) -> None:
        self._replicas = replicas
        # Messages travel as values over gRPC, in half the time of objects of Ray's store.
        self._respond = replicas.options(method_name="respond", stream=True, _by_reference=False)
        self._stores = stores
        self._health_s = health_timeout_s + _HEALTH_MARGIN_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive()).get("body", b"")
        path = scope["path"]
        try:
            if path == paths.LIVE:
                await self._answer(scope, receive, send, b'{"status":"alive"}', "application/json")
            elif path == paths.METRICS and scope["method"] == "GET":
                metrics = await self._metrics()
                await self._answer(scope, receive, send, metrics, CONTENT_TYPE)
            elif path == paths.HEALTH:
                await self._run_health(scope, send)
            else:
                await self._run(scope, body, send)
        except ApiError as error:
            await error.response()(scope, receive, send)

    @staticmethod
    async def _answer(
        scope: Scope, receive: Receive, send: Send, content: bytes, media_type: str
    ) -> None:
        await Response(content, media_type=media_type)(scope, receive, send)

    async def _metrics(self) -> bytes:
        """Return the metrics of all replicas, each with its name as a label."""
        found = self._replicas.broadcast("exposition")
        answers = await found.results_async(timeout_s=self._health_s, return_exceptions=True)
        return merged(dict(each for each in answers if not isinstance(each, BaseException)))

    async def _run_health(self, scope: Scope, send: Send) -> None:
        try:
            async with asyncio.timeout(self._health_s):
                await self._run(scope, b"", send)
        except TimeoutError:
            raise failures.no_replica(self._health_s) from None

    async def _run(self, scope: Scope, body: bytes, send: Send) -> None:
        """Run a request; one whose response has not begun is tried on another replica.

        Raises:
            ApiError: if no replica could run it.
        """
        route = route_of(scope, body, self._stores)
        waits_until = asyncio.get_running_loop().time() + _WRITER_S
        attempts = 0
        while True:
            response = _Response(send)
            try:
                async with aclosing(self._batches(scope, body, route)) as batches:
                    async for batch in batches:
                        await response.pass_on(batch)
            except _NotWriterError:
                if asyncio.get_running_loop().time() > waits_until:
                    raise failures.no_writer(route.store) from None
                await asyncio.sleep(_WRITER_RETRY_S)
                continue
            except _ReplicaError as error:
                attempts += 1
                log.warning("a replica failed during %s: %s", excerpt(scope["path"]), error)
                gone = failures.replica_gone(writes=route.writes)
                if response.start is not None:
                    await response.end_with(scope["path"], gone)
                elif route.writes or attempts == _ATTEMPTS:
                    raise gone from None
                else:
                    continue
            return

    async def _batches(self, scope: Scope, body: bytes, route: Route) -> AsyncGenerator[Any]:
        """Yield the batches of a response; the request is cancelled if they are not all taken.

        Raises:
            _NotWriterError: for a write that the replica did not run.
            _ReplicaError: if the replica ends.
        """
        answer = self._respond.remote(portable(scope), body, route=route)
        complete = False
        try:
            while (batch := await _next(answer)) is not None:
                if batch[0]["type"] == NOT_WRITER:
                    raise _NotWriterError
                yield batch
            complete = True
        finally:
            if not complete:
                answer.cancel()


async def _next(answer: Any) -> list[Message] | None:
    """Return the next batch of a response; None at its end."""
    try:
        batch: list[Message] = await anext(answer)
    except StopAsyncIteration:
        return None
    except Exception as error:  # of Ray, gRPC or the replica itself
        raise _ReplicaError(one_line(error, limit=200)) from error
    return batch


class _NotWriterError(Exception):
    """A write went to a replica that only reads the store; it was not run."""


class _ReplicaError(Exception):
    """A replica ended, or could not be reached, before the end of a response."""


class _Response:
    """A response on its way to the client.

    Attributes:
        start: the message with status and headers; None before it.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._complete = False
        self.start: Message | None = None

    async def pass_on(self, batch: list[Message]) -> None:
        """Send messages of the replica."""
        for message in batch:
            if message["type"] == "http.response.start":
                self.start = message
            self._complete = message["type"] == "http.response.body" and not message.get(
                "more_body"
            )
            await self._send(message)

    async def end_with(self, path: str, error: ApiError) -> None:
        """End a response whose replica has died with an error event.

        Raises:
            RuntimeError: for a response that is no stream of events; the connection is closed.
        """
        if self._complete or self.start is None:
            return
        event = failures.closing_event(path, self.start, error)
        if event is None:
            raise RuntimeError("a response ended before its last byte")
        await self._send({"type": "http.response.body", "body": event, "more_body": False})
