"""Who may ask: the key, the ``Host`` header, and what browsers are told.

Everything is denied by default; what needs no key is listed in ``app.open_paths``.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Sequence
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gritlm.printable import excerpt
from gritlm.serve.errors import ApiError

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
    """Lets in who has a key, and everybody to a few paths.

    Args:
        keys: none of them lets in everybody.
        open_paths: exact paths that need none to be read.
    """

    def __init__(self, app: ASGIApp, *, keys: Sequence[str], open_paths: Collection[str]) -> None:
        self.app = app
        self._digests = [_digest(key) for key in keys]
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not self._digests or self._is_open(scope):
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("authorization", "")
        if self._known(given):
            await self.app(scope, receive, send)
        else:
            await _refused(given).response()(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        return scope["path"] in self._open and scope.get("method") in ("GET", "HEAD")

    def _known(self, given: str) -> bool:
        """Takes the same time for every key: digests of one length, all of them compared."""
        scheme, _, key = given.partition(" ")
        digest = _digest(key.strip())
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(found)


class RequireHost:
    """Refuses requests that were sent to another name.

    A page whose name is made to point to this machine could ask us for it, with its own name.
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
    """Refuses what a web page of another origin may send without being allowed to: browsers say
    where a page is from, and ask beforehand when it sends JSON.

    Args:
        origins: pages that are allowed; ``*`` for all.
    """

    def __init__(self, app: ASGIApp, *, origins: Collection[str]) -> None:
        self.app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
        if origin is not None and not self._knows(origin, headers.get("host", "")):
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

    def _knows(self, origin: str, host: str) -> bool:
        own = origin.partition("://")[2].lower()
        return bool(own and own == host.strip().lower()) or bool({origin, "*"} & self._origins)


def has_body(headers: Headers) -> bool:
    """Whether a request announces a body."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def host_name(header: str) -> str:
    """``[::1]:8000`` -> ``::1``."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


def _refused(given: str) -> ApiError:
    message = (
        "Incorrect API key provided"
        if given
        else "You didn't provide an API key; send it as: Authorization: Bearer KEY"
    )
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
