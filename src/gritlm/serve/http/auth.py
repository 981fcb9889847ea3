"""Access control: API keys, ``Host`` and ``Origin`` headers, security headers for browsers.

Every path needs a key, except for the paths in ``app.open_paths``, and a key the rights in
``paths.RIGHTS_OF``.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gritlm.printable import excerpt
from gritlm.serve.access import ACCESS, WRITE, Access
from gritlm.serve.errors import AUDIO, ApiError, no_audio, no_right
from gritlm.serve.http.paths import DOCUMENTS, OLLAMA, RIGHTS_OF, ROUTES_WITH_ID
from gritlm.serve.key_file import KeyRing, digest

JSON = b"application/json"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",  # images and sounds of passages, fetched with the key
        "media-src blob:",
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
    """ASGI middleware that refuses requests without a valid key, or whose key lacks a right.

    The key comes as bearer or as ``x-api-key``.

    Args:
        app: the next layer.
        ring: the valid keys.
        needs_key: whether requests need a key.
        open_paths: exact paths that need no key for GET and HEAD.
    """

    def __init__(
        self, app: ASGIApp, *, ring: KeyRing, needs_key: bool, open_paths: Collection[str]
    ) -> None:
        self.app = app
        self._ring = ring
        self._needs_key = needs_key
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not self._needs_key or self._is_open(scope):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scheme, _, key = headers.get("authorization", "").partition(" ")
        sent = [key.strip()] if scheme.lower() == "bearer" else []
        if "x-api-key" in headers:
            sent.append(headers["x-api-key"])
        valid = [access for key in sent if (access := self._access_of(key)) is not None]
        if not valid:
            await _no_access(bool(scheme or sent)).response()(scope, receive, send)
            return
        ACCESS.set(valid[0])
        error = _lacking(valid[0], scope["method"], scope["path"])
        if error is None:
            await self.app(scope, receive, send)
        else:
            await error.response()(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        return scope["path"] in self._open and scope.get("method") in ("GET", "HEAD")

    def _access_of(self, key: str) -> Access | None:
        """Compare a key with all valid ones, in a time that does not depend on the key.

        Digests have one length, and each of them is compared.
        """
        hashed = digest(key)
        found = [access for valid, access in self._ring.keys if hmac.compare_digest(hashed, valid)]
        return found[0] if found else None


def _lacking(access: Access, method: str, path: str) -> ApiError | None:
    """Return the error for a right that the key of a request lacks; None if it has all.

    A path that is not listed is refused to keys without all rights, whatever routes exist.
    """
    if access.is_full:
        return None
    rights = rights_of(method, path)
    if rights is None:
        return ApiError(404, f"{method} {excerpt(path)}: Not Found", code="not_found")
    missing = [right for right in rights if right not in access.rights]
    return no_right(access.name, missing[0]) if missing else None


def rights_of(method: str, path: str) -> tuple[str, ...] | None:
    """Return the rights that a request needs; None for a path that is not listed."""
    beginnings = (name for start, name in ROUTES_WITH_ID.items() if path.startswith(start))
    route = path if path in RIGHTS_OF else next(beginnings, path)
    rights = RIGHTS_OF.get(route)
    reads = method in ("GET", "HEAD")
    return (WRITE,) if rights is not None and route.startswith(DOCUMENTS) and not reads else rights


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
            if scope["path"].startswith(AUDIO):  # whose clients send files as forms
                return no_audio(scope["path"])
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


def _no_access(has_key: bool) -> ApiError:
    message = (
        "Incorrect API key provided"
        if has_key
        else "You didn't provide an API key; send it as: Authorization: Bearer KEY"
    )
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
