"""HTTP/1.1 of one client: a bounded number of bytes and of pieces at a time."""

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

LINGER_S = 5.0  # that input is thrown away behind an early answer, so that the answer arrives
LINGER_BYTES = 2**26  # the most that is thrown away then
BUFFER_BYTES = 2**18

_READ_BYTES = 2**14  # parsed between two turns of the event loop
_HEADER_BYTES = 2**16
_HEADERS = 128
_PIECES = 1024  # of a request, before their mean size counts
_PIECE_BYTES = 8  # the smallest mean size


class _TooFineError(Exception):
    """A request in more pieces than its size explains."""


class _Transport:
    """A transport whose ``close`` lets the rest of an unfinished request arrive.

    A socket that is closed with unread input resets the connection, and its client may lose the
    answer.
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


class _BodyOf:
    """Callbacks of a parser that reads the body of a connection's request, and nothing else."""

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
    """HTTP/1.1 of one client, a bounded number of bytes and of pieces at a time.

    Attributes:
        awaits_header: the header of a new connection or of a request that has begun is missing.
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
        """Whether a request that can be answered has not arrived to its end."""
        return self._in_request and (self._has_header or self._discards)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Transport(transport, self))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._lingering is not None:
            self._lingering.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        """A buffer that all connections share: it is emptied before another one reads."""
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
        if not self._discards:  # a callback below has refused it
            self._end(invalid(msg, code="invalid_http"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_request = True
        self._has_header = False
        self.awaits_header = True
        self._received = self._pieces = self._body_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._has_header:  # a trailer: nothing reads it
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
        if self.parser.should_upgrade() and self._framing():  # the parser left the body out
            return
        super().on_message_complete()
        self._in_request = False

    def linger(self, transport: asyncio.Transport) -> None:
        """Throw input away for a while, then close."""
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
        """Go on as if the request had not offered another protocol, as Java's client does: the
        parser expects that protocol behind the header, even where a body follows."""
        if framing := self._framing():
            rest = HttpRequestParser(_BodyOf(self))
            rest.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
            self.parser = rest
            self.cycle.keep_alive = False

    def _framing(self) -> bytes:
        """The fields that give the length of the body."""
        names = (b"content-length", b"transfer-encoding")
        return b"".join(b"%s: %s\r\n" % field for field in self.headers if field[0] in names)

    def _is_too_fine(self) -> bool:
        """Whether the request costs more to take apart than its size explains: chunks of a byte,
        or headers, chunk extensions and trailers larger than the body."""
        framing = self._received - self._body_bytes
        return (
            self._pieces > _PIECES + self._body_bytes // _PIECE_BYTES
            or framing > _HEADER_BYTES + self._body_bytes
        )

    def _refuse(self) -> None:
        """Parse no more of this connection; the application answers, if the request has come so
        far."""
        if self._has_header:
            self._discards = True
            self.scope["state"][REFUSED] = True
            self.cycle.message_event.set()
        else:
            self._end(large_header(_HEADER_BYTES, _HEADERS))

    def _end(self, error: ApiError) -> None:
        """Answer a request that no application sees, and close."""
        self._discards = True
        log.info("a request was refused: %s", error.message)
        self.transport.write(raw_answer(error))
        self.transport.close()


def raw_answer(error: ApiError) -> bytes:
    """An answer to a request that no application sees."""
    answer = error.response()
    head = [
        f"HTTP/1.1 {error.status} {error.phrase}".encode(),
        *(b"%s: %s" % header for header in answer.raw_headers),
        b"connection: close",
    ]
    return b"\r\n".join([*head, b"", bytes(answer.body)])
