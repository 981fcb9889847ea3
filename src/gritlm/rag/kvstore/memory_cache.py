"""LRU cache of decoded KV blocks in memory."""

from __future__ import annotations

from collections import OrderedDict

from gritlm.lm.kv.block import KVBlock

_REQUESTED = 10_000  # recently requested keys that are remembered


class MemoryCache:
    """LRU cache of at most ``capacity`` bytes of keys and values.

    Attributes:
        capacity: byte limit.
        nbytes: bytes of the cached blocks.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self._blocks: OrderedDict[bytes, KVBlock] = OrderedDict()
        self._requested: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, key: bytes) -> bool:
        return key in self._blocks

    def get(self, key: bytes) -> KVBlock | None:
        """Return a cached block and mark it as the most recently used; None if missing."""
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
        return block

    def request(self, key: bytes) -> bool:
        """Record a request for a key; return whether it is among the last 10,000 requested keys."""
        before = key in self._requested
        self._requested[key] = None
        self._requested.move_to_end(key)
        if len(self._requested) > _REQUESTED:
            self._requested.popitem(last=False)
        return before

    def put(self, key: bytes, block: KVBlock) -> None:
        """Cache a block, unless it alone exceeds the capacity."""
        self._drop(key)
        if block.nbytes > self.capacity:
            return
        while self.nbytes + block.nbytes > self.capacity:
            self._drop(next(iter(self._blocks)))
        self._blocks[key] = block
        self.nbytes += block.nbytes

    def forget(self, key: bytes) -> None:
        """Remove a block and its record of requests."""
        self._drop(key)
        self._requested.pop(key, None)

    def clear(self) -> None:
        """Remove everything."""
        self._blocks.clear()
        self._requested.clear()
        self.nbytes = 0

    def _drop(self, key: bytes) -> None:
        block = self._blocks.pop(key, None)
        if block is not None:
            self.nbytes -= block.nbytes
