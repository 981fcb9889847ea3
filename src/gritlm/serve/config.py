"""Configuration of the HTTP server: address, keys, allowed hosts, limits and timeouts."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from gritlm.errors import InputError, choice
from gritlm.rag.types import ReaderName
from gritlm.serve.key_file import require_sendable

RerankMethod = Literal["embed", "generate", "likelihood"]
RERANK_METHODS: tuple[RerankMethod, ...] = get_args(RerankMethod)
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")  # of this machine, in Host headers
MAX_INPUTS = 2048  # texts of one request, as in OpenAI's API
MAX_CHOICES = 16  # answers to one prompt
MAX_STOPS = 4  # stop strings of one request
MAX_BODIES = 8  # request bodies of the largest size that fit the memory for bodies
MEDIA_BYTES = 2**31  # inputs of image and sound towers that waiting and running requests hold
UPLOAD_THREADS = 3  # that parse uploaded files: a slow file delays no other request


@dataclass(frozen=True)
class ServerConfig:
    """Settings of the HTTP server, independent of the model.

    Attributes:
        host: address to listen on.
        port: port to listen on; 0 for a free one.
        api_keys: accepted API keys, with all rights; without any key, requests need none.
        key_file: file with further keys, each with its stores and rights; None for none.
        names: model names that requests may use; responses have the first one by default.
        allowed_hosts: accepted names in the ``Host`` header. When empty, a loopback address
            accepts only its own names, so that a web page cannot reach it by a domain of its own
            (DNS rebinding), and any other address accepts every name.
        cors_origins: origins of other web pages that may use the server.
        open_metrics: whether ``/metrics`` needs no API key.
        allow_token_ids: whether ``/v1/embeddings`` accepts token ids. They are read as ids of this
            model's tokenizer, and many clients send ids of another one.
        reader: reader of uploaded files: ``docling`` reads PDF files and images by docling.
        rerank: method of rerank requests that name none; None for ``likelihood`` of models with a
            calibration, and ``embed`` of others.
        strict: whether unknown fields of a request are refused. By default they are ignored and
            named in the header ``x-gritlm-ignored``.
        max_body_bytes: most bytes of a request's body.
        body_timeout_s: seconds in which a request's body has to arrive.
        health_timeout_s: seconds in which the model's thread has to pass the health check.
        drain_s: seconds that accepted requests get to finish after SIGTERM.
        threads: number of threads that tokenize.
        max_connections: most open connections, idle ones included.
        allow_media_urls: whether images and sounds may be named by ``http`` and ``https``
            addresses, which the server then fetches; those of private networks are refused.
        max_media_pixels: most pixels of an image.
        max_media_seconds: longest sound in seconds.
        max_media_items: most images and sounds of a request.

    Raises:
        InputError: for a value out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    key_file: Path | None = None
    names: tuple[str, ...] = ("gritlm",)
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    open_metrics: bool = False
    allow_token_ids: bool = False
    reader: ReaderName = "standard"
    rerank: RerankMethod | None = None
    strict: bool = False
    max_body_bytes: int = 8 * 2**20
    body_timeout_s: float = 60.0
    health_timeout_s: float = 5.0
    drain_s: float = 30.0
    threads: int = 2
    max_connections: int = 512
    allow_media_urls: bool = False
    max_media_pixels: int = 25_000_000
    max_media_seconds: float = 600.0
    max_media_items: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise InputError(f"port={self.port}; expected 0 to 65535")
        if not self.names or not all(self.names):
            raise InputError("names is empty; expected at least one name for the model")
        if self.rerank is not None:
            choice(self.rerank, RERANK_METHODS, name="rerank")
        for number, key in enumerate(self.api_keys, 1):
            require_sendable(key, f"API key {number} of {len(self.api_keys)}")
        positive = ("max_body_bytes", "body_timeout_s", "health_timeout_s", "threads")
        media = ("max_media_pixels", "max_media_seconds", "max_media_items")
        for name in (*positive, "max_connections", *media):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)}; expected more than 0")
        if not 0 <= self.drain_s < float("inf"):
            raise InputError(f"drain_s={self.drain_s}; expected 0 or more seconds")

    @property
    def needs_key(self) -> bool:
        """Whether requests need an API key."""
        return bool(self.api_keys) or self.key_file is not None

    @property
    def max_total_body_bytes(self) -> int:
        """Most bytes of all request bodies together."""
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
        """Names that a ``Host`` header may have, in lower case; empty for any."""
        if self.allowed_hosts:
            return frozenset(name.lower() for name in self.allowed_hosts)
        return frozenset((*LOCAL_NAMES, self.host)) if self.is_local else frozenset()
