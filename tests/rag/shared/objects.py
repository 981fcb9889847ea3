"""Storage of a shared tier in memory, which can fail and can be slow."""

from __future__ import annotations

import time


class MemoryObjects:
    """Objects by name.

    Attributes:
        away: whether every request fails.
        seconds: time of a request that reads.
        requests: number of requests.
    """

    url = "s3://bucket/blocks"

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.away = False
        self.seconds = 0.0
        self.requests = 0

    def read(self, name: str) -> bytes | None:
        self._request()
        time.sleep(self.seconds)
        return self.content.get(name)

    def size(self, name: str) -> int | None:
        self._request()
        return len(self.content[name]) if name in self.content else None

    def write(self, name: str, content: bytes) -> None:
        self._request()
        self.content[name] = content

    def delete(self, name: str) -> None:
        self._request()
        self.content.pop(name, None)

    def blocks(self) -> list[str]:
        return sorted(name for name in self.content if name.endswith(".kv"))

    def _request(self) -> None:
        self.requests += 1
        if self.away:
            raise OSError("the network is away")
