"""HTTP/1.1 protocol of one connection, with limits on headers and on the pieces of a request."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gritlm.serve.errors import ApiError, invalid, large_header
from gritlm.serve.http.body_limit import REFUSED

log = logging.getLogger(__name__)

LINGER_S = 5.0  # time in which input is discarded after an early response, so that it arrives
LINGER_BYTES = 2**26  # the most input that is discarded then
BUFFER_BYTES = 2**18

_READ_BYTES = 2**14  # parsed between two turns of the event loop
_HEADER_BYTES = 2**16
_HEADERS = 128
_PIECES = 1024  # pieces of a request that are allowed at any size
_PIECE_BYTES = 8  # the smallest mean size of further pieces


class _TooFineError(Exception):
    """A request has more pieces than its size explains."""


class _Transport:
    """Transport whose ``close`` first lets the rest of an unfinished request arrive.

    Closing a socket with unread input resets the connection, and the client may lose the response.
    """

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection
        self._lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._lingers:
            self._transport.write(data)

    def is_closing(self) -> bool:
        return self._lingers or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing() or not self._connection.is_unread:
            self._transport.close()
            return
        self._lingers = True
        with suppress(OSError):  # the client has left
            self._transport.write_eof()
        self._transport.resume_reading()
        self._connection.linger(self._transport)


class _BodyCallbacks:
    """Callbacks of a parser that reads only the body of the request of a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._is_whole = False

    def on_body(self, body: bytes) -> None:
        if not self._is_whole:
            self._connection.on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_whole:
            self._is_whole = True
            self._connection.on_message_complete()


class Connection(HttpToolsProtocol, asyncio.BufferedProtocol):
    """HTTP/1.1 connection of one client, with limits on headers and on the pieces of a request.

    Attributes:
        awaits_header: whether the header of a new connection, or of a request that has begun, is
            incomplete.
    """

    def __init__(self, *args: Any, buffer: bytearray, **options: Any) -> None:
        super().__init__(*args, **options)
        self._buffer = memoryview(buffer)
        self._in_request = False
        self.awaits_header = True
        self._has_header = self._discards = False
        self._received = self._pieces = self._body_bytes = self._discarded = 0
        self._lingering: asyncio.TimerHandle | None = None

    @property
    def is_unread(self) -> bool:
        """Whether a request that can be answered has not arrived completely."""
        return self._in_request and (self._has_header or self._discards)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Transport(transport, self))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._lingering is not None:
            self._lingering.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer that all connections share; it is emptied before the next read."""
        del sizehint
        return self._buffer[: BUFFER_BYTES if self._discards else _READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        if self._discards:
            self._discarded += nbytes
            if self._discarded > LINGER_BYTES:
                self.transport.abort()
        else:
            self.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        self.awaits_header |= not self._in_request
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except HttpParserError:
            self.send_400_response("The request is not valid HTTP/1.1")
        self._received += len(data)
        self._pieces += 1
        if self._in_request and not self._discards and self._is_too_fine():
            self._refuse()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed."""
        if not self._discards:  # a callback below has refused the request
            self._end(invalid(msg, code="invalid_http"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_request = True
        self._has_header = False
        self.awaits_header = True
        self._received = self._pieces = self._body_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._has_header:  # a trailer, which is ignored
            return
        super().on_header(name, value)
        if len(self.headers) > _HEADERS:
            self._refuse()
            raise _TooFineError

    def on_headers_complete(self) -> None:
        self._has_header = True
        self.awaits_header = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._body_bytes += len(body)
        self._pieces += 1
        if self._is_too_fine():
            self._refuse()
            raise _TooFineError

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and self._framing():  # the parser skipped the body
            return
        super().on_message_complete()
        self._in_request = False

    def linger(self, transport: asyncio.Transport) -> None:
        """Discard input for `LINGER_S` seconds, then close."""
        self._discards = True
        self._unset_keepalive_if_required()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._lingering = self.loop.call_later(LINGER_S, transport.close)

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                self._decline_upgrade()

    def _decline_upgrade(self) -> None:
        """Ignore the offer of another protocol, which Java's HTTP client sends with each request.

        The parser expects that protocol behind the header, even if a body follows, so another
        parser reads the body.
        """
        if framing := self._framing():
            rest = HttpRequestParser(_BodyCallbacks(self))
            rest.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
            self.parser = rest
            self.cycle.keep_alive = False

    def _framing(self) -> bytes:
        """Return the header fields that give the length of the body."""
        names = (b"content-length", b"transfer-encoding")
        return b"".join(b"%s: %s\r\n" % field for field in self.headers if field[0] in names)

    def _is_too_fine(self) -> bool:
        """Return whether parsing the request costs more than its size explains.

        This is so for chunks of a byte, and for headers, chunk extensions and trailers that are
        larger than the body.
        """
        framing = self._received - self._body_bytes
        return (
            self._pieces > _PIECES + self._body_bytes // _PIECE_BYTES
            or framing > _HEADER_BYTES + self._body_bytes
        )

    def _refuse(self) -> None:
        """Stop parsing this connection; the application answers if it has got the request."""
        if self._has_header:
            self._discards = True
            self.scope["state"][REFUSED] = True
            self.cycle.message_event.set()
        else:
            self._end(large_header(_HEADER_BYTES, _HEADERS))

    def _end(self, error: ApiError) -> None:
        """Answer a request that does not reach the application, and close the connection."""
        self._discards = True
        log.info("a request was refused: %s", error.message)
        self.transport.write(raw_answer(error))
        self.transport.close()


def raw_answer(error: ApiError) -> bytes:
    """Return the bytes of a response to a request that does not reach the application."""
    response = error.response()
    head = [
        f"HTTP/1.1 {error.status} {error.phrase}".encode(),
        *(b"%s: %s" % header for header in response.raw_headers),
        b"connection: close",
    ]
    return b"\r\n".join([*head, b"", bytes(response.body)])
