"""Images and sounds of requests: the rules of the server, decoding in processes, and memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from gritlm.lm.media.decoding.isolated import DecodingProcesses
from gritlm.lm.media.files import MediaRules
from gritlm.lm.media.senses import MediaTokens
from gritlm.serve.config import MEDIA_BYTES, ServerConfig
from gritlm.serve.engine.errors import OverloadedError

_RETRY_S = 5.0


def media_rules(settings: ServerConfig) -> MediaRules:
    """Return the rules for images and sounds of requests, which name no file of the server.

    Args:
        settings: settings of the server.
    """
    return MediaRules(
        most_bytes=settings.max_body_bytes,
        most_pixels=settings.max_media_pixels,
        longest_sound=settings.max_media_seconds,
        most_parts=settings.max_media_items,
        files=False,
        web=settings.allow_media_urls,
    )


class MediaDecoding:
    """Decoding of the images and sounds of requests; safe in several threads.

    Args:
        settings: settings of the server.
    """

    def __init__(self, settings: ServerConfig) -> None:
        self._rules = media_rules(settings)
        self._processes = DecodingProcesses()
        self._memory = MediaMemory(MEDIA_BYTES)

    @contextmanager
    def rules(self, *, most_tokens: int) -> Iterator[MediaRules]:
        """Yield the rules of a request, by which a process of its own decodes its files.

        Args:
            most_tokens: most tokens of its images and sounds.
        """
        with self._processes.rules(self._rules, most_tokens=most_tokens) as isolated:

            def spend(found: MediaTokens) -> None:
                assert isolated.spend is not None, "the rules of a request count its tokens"
                isolated.spend(found)
                self._memory.add(found)

            yield replace(isolated, spend=spend)

    def close(self) -> None:
        """Kill the processes."""
        self._processes.close()


class MediaMemory:
    """Bytes that images and sounds of waiting and running requests hold, as towers take them.

    Safe in several threads.

    Args:
        most: most bytes of all requests.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: WeakKeyDictionary[MediaTokens, int] = WeakKeyDictionary()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """The bytes that are held; bytes of a request that has ended no longer count."""
        with self._lock:
            return sum(self._held.values())

    def add(self, found: MediaTokens) -> None:
        """Count an image or a sound until nothing refers to it.

        Raises:
            OverloadedError: when all of them together would exceed the limit.
        """
        new = sum(_nbytes(value) for value in found.inputs.values())
        with self._lock:
            if sum(self._held.values()) + new > self._most:
                raise OverloadedError(
                    f"images and sounds of waiting requests exceed the server's limit of "
                    f"{self._most:,} bytes; try again, with fewer of them in a request",
                    retry_after_s=_RETRY_S,
                )
            self._held[found] = new


def _nbytes(value: Any) -> int:
    if isinstance(value, list | tuple):
        return sum(map(_nbytes, value))
    return int(getattr(value, "nbytes", 0))
