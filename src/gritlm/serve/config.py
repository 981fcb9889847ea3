"""How the server listens, whom it lets in and what it takes."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from gritlm.errors import InputError

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
MAX_INPUTS = 2048  # texts of one request, as in OpenAI's API
MAX_CHOICES = 16  # answers to one prompt
MAX_STOPS = 4
MAX_BODIES = 8  # of the largest size, in memory at once; smaller ones share their room
UPLOADS = 3  # requests whose files are read at a time: a slow file holds up no others


@dataclass(frozen=True)
class ServerConfig:
    """What does not depend on the model.

    Attributes:
        port: 0 takes a free one.
        api_keys: one of them opens everything; none of them: everything is open.
        names: that clients may call the model by; the first is the one we answer with.
        allowed_hosts: names in a request's ``Host`` header; none: any, but on a loopback address
            only its own names. That keeps web pages from reaching it under a name of theirs.
        cors_origins: web pages of other origins that may use the server; none by default.
        allow_token_ids: whether token ids are embedded; they are taken for ids of this model's
            tokenizer, and many clients send those of another one.
        open_metrics: whether ``/metrics`` needs no key.
        max_body_bytes: of a request.
        body_timeout_s: in which a request's body has to arrive.
        health_timeout_s: in which the model's thread has to answer.
        drain_s: that accepted requests get to end after SIGTERM.
        threads: that tokenize.
        max_connections: at once, those that wait for their next request among them.

    Raises:
        InputError: for a value out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    names: tuple[str, ...] = ("gritlm",)
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    open_metrics: bool = False
    allow_token_ids: bool = False
    max_body_bytes: int = 8 * 2**20
    body_timeout_s: float = 60.0
    health_timeout_s: float = 5.0
    drain_s: float = 30.0
    threads: int = 2
    max_connections: int = 512

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise InputError(f"port={self.port}; expected 0 to 65535")
        if not self.names or not all(self.names):
            raise InputError("names is empty; expected at least one name for the model")
        for number, key in enumerate(self.api_keys, 1):
            _require_sendable(key, f"API key {number} of {len(self.api_keys)}")
        numbers = ("max_body_bytes", "body_timeout_s", "health_timeout_s", "threads")
        for name in (*numbers, "max_connections"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)}; expected more than 0")
        if not 0 <= self.drain_s < float("inf"):
            raise InputError(f"drain_s={self.drain_s}; expected 0 or more seconds")

    @property
    def max_total_body_bytes(self) -> int:
        """Bytes of all requests' bodies together."""
        return MAX_BODIES * self.max_body_bytes

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def hosts(self) -> frozenset[str]:
        """Names that a ``Host`` header may have, in small letters; empty for any."""
        if self.allowed_hosts:
            return frozenset(name.lower() for name in self.allowed_hosts)
        return frozenset((*LOCAL_NAMES, self.host)) if self.is_local else frozenset()


def _require_sendable(key: str, name: str) -> None:
    """
    Raises:
        InputError: for a key that a header cannot hold; the key is not shown.
    """
    if not key.strip():
        raise InputError(f"{name} is empty; give it characters, or leave it out")
    if not key.isascii() or not key.isprintable():
        raise InputError(
            f"{name} has a character that headers do not hold; use letters, digits and signs of "
            "ASCII"
        )
    if key != key.strip():
        raise InputError(f"{name} begins or ends with a space, which headers lose; remove it")
