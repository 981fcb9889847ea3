"""Access control: API keys, ``Host`` and ``Origin`` headers, security headers for browsers.

Every path needs a key, except for the paths in ``app.open_paths``.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Sequence
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gritlm.printable import excerpt
from gritlm.serve.errors import ApiError
from gritlm.serve.http.paths import OLLAMA

JSON = b"application/json"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class RequireKey:
    """ASGI middleware that refuses requests without a valid API key, as bearer or ``x-api-key``.

    Args:
        app: the next layer.
        keys: the valid keys; with an empty list, no request needs a key.
        open_paths: exact paths that need no key for GET and HEAD.
    """

    def __init__(self, app: ASGIApp, *, keys: Sequence[str], open_paths: Collection[str]) -> None:
        self.app = app
        self._digests = [_digest(key) for key in keys]
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not self._digests or self._is_open(scope):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scheme, _, key = headers.get("authorization", "").partition(" ")
        sent = [key.strip()] if scheme.lower() == "bearer" else []
        if "x-api-key" in headers:
            sent.append(headers["x-api-key"])
        matches = [self._is_valid(key) for key in sent]
        if any(matches):
            await self.app(scope, receive, send)
        else:
            await _no_access(bool(scheme or sent)).response()(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        return scope["path"] in self._open and scope.get("method") in ("GET", "HEAD")

    def _is_valid(self, key: str) -> bool:
        """Compare a key with all valid ones, in a time that does not depend on the key.

        Digests have one length, and each of them is compared.
        """
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, valid) for valid in self._digests]
        return any(matches)


class RequireHost:
    """ASGI middleware that refuses requests to an unknown host name.

    This prevents DNS rebinding: a web page whose name resolves to this machine could otherwise
    send requests to the server.

    Args:
        app: the next layer.
        hosts: the allowed host names; with an empty collection, all names are allowed.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str]) -> None:
        self.app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not self._hosts:
            await self.app(scope, receive, send)
            return
        name = host_name(Headers(scope=scope).get("host", ""))
        if name in self._hosts:
            await self.app(scope, receive, send)
        else:
            error = ApiError(
                421,
                f"This server is not known as '{excerpt(name)}'; start it with "
                "--allowed-host to let that name in",
                code="unknown_host",
            )
            await error.response()(scope, receive, send)


class RequireOwnPage:
    """ASGI middleware that refuses requests of web pages from other origins.

    A browser states the origin of a page, and sends JSON to another origin only after a preflight
    request. Bodies of other types, which need no preflight, are refused.

    Args:
        app: the next layer.
        origins: the allowed origins; ``*`` for all.
    """

    def __init__(self, app: ASGIApp, *, origins: Collection[str]) -> None:
        self.app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _is_untyped_ollama(scope):
            scope = {**scope, "headers": [*scope["headers"], (b"content-type", JSON)]}
        error = self._problem(scope) if scope["type"] == "http" else None
        if error is None:
            await self.app(scope, receive, send)
        else:
            await error.response()(scope, receive, send)

    def _problem(self, scope: Scope) -> ApiError | None:
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and not self._allows(origin, headers.get("host", "")):
            return ApiError(
                403,
                f"Pages of '{excerpt(origin)}' may not use this server; start it with "
                "--cors-origin to let them in",
                code="unknown_origin",
            )
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if has_body(headers) and kind != "application/json":
            return ApiError(
                415,
                f"The body's Content-Type is '{excerpt(kind)}'; send it with Content-Type: "
                "application/json",
                code="unsupported_media_type",
            )
        return None

    def _allows(self, origin: str, host: str) -> bool:
        own = origin.partition("://")[2].lower()
        return bool(own and own == host.strip().lower()) or bool({origin, "*"} & self._origins)


def _is_untyped_ollama(scope: Scope) -> bool:
    """Return whether a body on a path of Ollama's API has no type, as some of its clients send it.

    A web page of another origin is refused by its origin, which browsers send with every body.
    """
    headers = Headers(scope=scope)
    return (
        scope["path"].startswith(OLLAMA)
        and "content-type" not in headers
        and "origin" not in headers
    )


def has_body(headers: Headers) -> bool:
    """Return whether a request announces a body."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def host_name(header: str) -> str:
    """Return the name in a ``Host`` header: ``::1`` for ``[::1]:8000``."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


def _no_access(has_key: bool) -> ApiError:
    message = (
        "Incorrect API key provided"
        if has_key
        else "You didn't provide an API key; send it as: Authorization: Bearer KEY"
    )
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
