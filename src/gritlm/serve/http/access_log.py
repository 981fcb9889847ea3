"""Outermost layer of every request: request id, access log, headers, unexpected errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from time import monotonic, perf_counter
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gritlm.printable import excerpt
from gritlm.serve.access import ACCESS, ALL
from gritlm.serve.dialects.error_forms import ERROR_FORMS, FORMS_BELOW
from gritlm.serve.errors import FORM, draining, internal
from gritlm.serve.http import auth
from gritlm.serve.http.body_limit import ClientGoneError
from gritlm.serve.http.logging import REQUEST_ID
from gritlm.serve.http.paths import API, HEALTH, METRICS, ROUTES, ROUTES_WITH_ID
from gritlm.serve.request_trace import TRACE, RequestTrace
from gritlm.serve.service import Service

log = logging.getLogger(__name__)
access = logging.getLogger("gritlm.serve.access")

_PATH_LENGTH = 200  # characters of a path in a log line
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # request ids of clients that are kept
GONE = 499  # in logs and metrics: the client disconnected before the response


class RequestContext:
    """ASGI middleware with the context of a request: id, access log, headers, counters.

    Args:
        app: the next layer.
        service: state of the server.
        quiet_paths: paths that are polled; their log lines have the level DEBUG.
        page: paths of the web page.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: Service,
        quiet_paths: Collection[str],
        page: Collection[str],
    ) -> None:
        self.app = app
        self._service = service
        self._quiet = frozenset(quiet_paths)
        self._page = frozenset(page)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = begin_request(scope)
        body = IncomingBody(receive, announced=auth.has_body(Headers(scope=scope)))
        response = ResponseSender(send, request_id, scope["path"], body)
        self._start_trace(scope)
        started = perf_counter()
        try:
            await self._run(scope, body.receive, response)
        except ClientGoneError:
            response.status = GONE
        except Exception:
            log.exception("a request failed")
            if response.status == 0:
                await internal(request_id).response()(scope, body.receive, response.send)
            response.status = 500
        finally:
            self._record(scope, response.status or GONE, 1000 * (perf_counter() - started))
            self._end_trace(request_id, response.status or GONE)

    def _start_trace(self, scope: Scope) -> None:
        TRACE.set(None)
        if self._service.spans is None or not scope["path"].startswith(API):
            return
        headers = Headers(scope=scope)
        parent = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        route = endpoint_of(scope["path"], page=self._page)
        TRACE.set(RequestTrace(scope["method"], route, parent))

    def _end_trace(self, request_id: str, status: int) -> None:
        trace = TRACE.get()
        if trace is None or self._service.spans is None:
            return
        trace.attributes["gritlm.request_id"] = request_id
        if name := ACCESS.get().name:
            trace.attributes["gritlm.key"] = name
        self._service.spans.add(trace, status, monotonic())

    async def _run(self, scope: Scope, receive: Receive, response: ResponseSender) -> None:
        if not scope["path"].startswith(API):
            await self.app(scope, receive, response.send)
        elif self._service.draining:
            await draining().response()(scope, receive, response.send)
        else:
            with self._count_running():
                await self.app(scope, receive, response.send)

    @contextmanager
    def _count_running(self) -> Iterator[None]:
        self._service.running += 1
        try:
            yield
        finally:
            self._service.running -= 1

    def _record(self, scope: Scope, status: int, ms: float) -> None:
        route = endpoint_of(scope["path"], page=self._page)
        self._service.metrics.requests.labels(route, str(status)).inc()
        level = logging.DEBUG if scope["path"] in self._quiet else logging.INFO
        method = scope["method"]
        path = scope.get("raw_path", b"").decode("ascii", "replace")
        path = excerpt(path, _PATH_LENGTH)
        fields = {"method": method, "path": path, "status": status, "milliseconds": round(ms, 1)}
        if name := ACCESS.get().name:
            fields["key"] = name
        access.log(level, "%s %s %d %.1f ms", method, path, status, ms, extra={"fields": fields})


class IncomingBody:
    """The incoming body of a request.

    Attributes:
        is_unread: whether a part of the body has not been read.
    """

    def __init__(self, receive: Receive, *, announced: bool) -> None:
        self._receive = receive
        self.is_unread = announced

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            self.is_unread = False
        return message


class ResponseSender:
    """Sender of a response, which adds headers.

    A response that is sent before the body of its request was read closes the connection, so that
    the rest of the body is not waited for.

    Attributes:
        status: status of the response; 0 while none has been sent.
    """

    def __init__(self, send: Send, request_id: str, path: str, body: IncomingBody) -> None:
        self._send = send
        self._request_id = request_id
        self._path = path
        self._body = body
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._request_id
            if self._body.is_unread:
                headers["Connection"] = "close"
            for name, value in auth.HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store" if self._is_api() else "no-cache")
        await self._send(message)

    def _is_api(self) -> bool:
        return self._path.startswith((*API, HEALTH, METRICS))


def begin_request(scope: Scope) -> str:
    """Set the context of a request (id, form of errors, no rights yet), and return its id."""
    request_id = request_id_of(Headers(scope=scope).get("x-request-id"))
    REQUEST_ID.set(request_id)
    path = scope["path"]
    FORM.set(ERROR_FORMS.get(path) or FORMS_BELOW.get(path[: path.find("/", 1) + 1]))
    ACCESS.set(ALL)  # a pipelined request begins in the context of the one before it
    return request_id


def request_id_of(header: str | None) -> str:
    """Return the request id of the client if it is safe in a log line, otherwise a new one."""
    return header if header is not None and _REQUEST_ID.fullmatch(header) else f"req-{uuid4().hex}"


def endpoint_of(path: str, *, page: Collection[str]) -> str:
    """Return the name of a path in metrics: one of a fixed set, whatever paths clients request.

    Args:
        path: path of a request.
        page: paths of the web page, which have one name together.
    """
    if path in ROUTES:
        return path
    named = next((name for start, name in ROUTES_WITH_ID.items() if path.startswith(start)), None)
    return named or ("/" if path in page else "other")
