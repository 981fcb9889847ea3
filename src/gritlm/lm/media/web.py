"""Downloads from public addresses of the web; private networks and redirects are refused.

The name is resolved once, every address it has must be public, and the connection goes to such an
address: a second answer of the name server cannot lead elsewhere. One deadline holds for
connecting, headers and content together.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

from gritlm.errors import InputError, one_line

LONGEST = 60.0  # seconds of a download
_SECONDS = 10.0  # of a connection, and of each wait for bytes
_PIECE = 1 << 16
_PORTS = {"http": 80, "https": 443}
# Other IPv6 addresses are local, unassigned, or stand for IPv4 addresses that may be private
# (::/96, 64:ff9b::/96, 64:ff9b:1::/48); some versions of Python call them global.
_GLOBAL = ipaddress.ip_network("2000::/3")


def fetch(url: str, *, name: str, most_bytes: int, seconds: float = LONGEST) -> bytes:
    """Return the content of an address.

    Args:
        url: an ``http`` or ``https`` address.
        name: name of the content in messages.
        most_bytes: most bytes that are read.
        seconds: most seconds of connecting and reading.

    Raises:
        InputError: for an address that is invalid, private, redirected, unreachable or slow, or
            content that is too large.
    """
    shown = one_line(url, limit=120)
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
        host = (parts.hostname or "").encode("idna").decode("ascii")
    except (ValueError, KeyError, UnicodeError):
        raise InputError(f"{name}: {shown} is not a valid http or https address") from None
    if not host or parts.username is not None:
        raise InputError(f"{name}: {shown} is not a valid address of a public host")
    address = _public_address(host, port, name)
    end = time.monotonic() + seconds
    connection = _Pinned(host, port, address, encrypted=parts.scheme == "https", end=end)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("GET", path, headers={"User-Agent": "gritlm", "Accept": "*/*"})
        received: Any = _Received(connection.sock, end)
        answer = http.client.HTTPResponse(received, method="GET")
        answer.begin()
        return _content(answer, f"{name}: {shown}", most_bytes)
    except TimeoutError:
        raise InputError(
            f"{name}: {shown} takes more than {_SECONDS:.0f} s to answer, or {LONGEST:.0f} s in all"
            "; send its bytes instead"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{name}: {shown} cannot be fetched ({one_line(error)}); send its bytes instead"
        ) from None
    finally:
        connection.close()


def _content(answer: http.client.HTTPResponse, name: str, most_bytes: int) -> bytes:
    if answer.status != http.client.OK:
        raise InputError(f"{name} answers with status {answer.status}; expected 200, no redirect")
    content = bytearray()
    while piece := answer.read1(_PIECE):
        content += piece
        if len(content) > most_bytes:
            raise InputError(f"{name} has more than {most_bytes:,} bytes; use a smaller file")
    return bytes(content)


def _public_address(host: str, port: int, name: str) -> str:
    """Return an address of a host, all of whose addresses must be public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"{name}: the host {one_line(host, limit=80)} is not found ({one_line(error)}); "
            "check its name, or send the bytes of the file"
        ) from None
    addresses = [str(entry[4][0]).split("%")[0] for entry in found]
    for address in addresses:
        if not _is_public(address):
            raise InputError(
                f"{name}: the host {one_line(host, limit=80)} has the private address {address}; "
                "only public addresses are fetched"
            )
    if not addresses:
        raise InputError(
            f"{name}: the host {one_line(host, limit=80)} has no address; check its name, or send "
            "the bytes of the file"
        )
    return addresses[0]


def _is_public(address: str) -> bool:
    number: Any = ipaddress.ip_address(address)
    mapped = getattr(number, "ipv4_mapped", None) or getattr(number, "sixtofour", None)
    number = mapped or number
    unicast = number.version == 4 or number in _GLOBAL
    return bool(unicast and number.is_global and not number.is_multicast)


class _Pinned(http.client.HTTPConnection):
    """A connection to a given address of a host; the certificate is checked for the host."""

    def __init__(self, host: str, port: int, address: str, *, encrypted: bool, end: float) -> None:
        super().__init__(host, port, timeout=_SECONDS)
        self._address = address
        self._encrypted = encrypted
        self._end = end
        if encrypted:
            self.default_port = _PORTS["https"]

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), timeout=_wait(self._end))
        self.sock = plain
        if self._encrypted:
            context = ssl.create_default_context()
            plain.settimeout(_wait(self._end))
            self.sock = context.wrap_socket(plain, server_hostname=self.host)


class _Received(io.RawIOBase):
    """The bytes that a connection receives until a deadline, for a response of ``http.client``."""

    def __init__(self, connection: socket.socket, end: float) -> None:
        self._connection = connection
        self._end = end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(_wait(self._end))
        return self._connection.recv_into(buffer)

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb", "a response is read as bytes"
        return io.BufferedReader(self)


def _wait(end: float) -> float:
    """Return the most seconds of the next wait.

    Raises:
        TimeoutError: after the deadline.
    """
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return min(_SECONDS, left)
