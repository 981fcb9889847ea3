"""Blocks that are kept in memory, ready to use; those not asked for longest go first."""

from __future__ import annotations

from collections import OrderedDict

from gritlm.lm.kv import KVBlock


class MemoryTier:
    """At most ``capacity`` bytes of keys and values.

    Attributes:
        nbytes: what they come to now.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self._blocks: OrderedDict[bytes, KVBlock] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, key: bytes) -> bool:
        return key in self._blocks

    def get(self, key: bytes) -> KVBlock | None:
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
        return block

    def put(self, key: bytes, block: KVBlock) -> None:
        """Keep it, unless it is larger than all of the memory."""
        self.drop(key)
        if block.nbytes > self.capacity:
            return
        while self.nbytes + block.nbytes > self.capacity:
            self.drop(next(iter(self._blocks)))
        self._blocks[key] = block
        self.nbytes += block.nbytes

    def drop(self, key: bytes) -> None:
        block = self._blocks.pop(key, None)
        if block is not None:
            self.nbytes -= block.nbytes

    def clear(self) -> None:
        self._blocks.clear()
        self.nbytes = 0
