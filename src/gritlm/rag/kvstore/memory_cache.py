"""Blocks that are kept in memory, ready to use; those not asked for longest go first."""

from __future__ import annotations

from collections import OrderedDict

from gritlm.lm.kv.block import KVBlock

_ASKED = 10_000  # keys that are remembered as asked for


class MemoryCache:
    """At most ``capacity`` bytes of keys and values.

    Attributes:
        nbytes: what they come to now.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self._blocks: OrderedDict[bytes, KVBlock] = OrderedDict()
        self._asked: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, key: bytes) -> bool:
        return key in self._blocks

    def get(self, key: bytes) -> KVBlock | None:
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
        return block

    def ask(self, key: bytes) -> bool:
        """Note that it was asked for -> whether it had been, among the last some thousand."""
        before = key in self._asked
        self._asked[key] = None
        self._asked.move_to_end(key)
        if len(self._asked) > _ASKED:
            self._asked.popitem(last=False)
        return before

    def put(self, key: bytes, block: KVBlock) -> None:
        """Keep it, unless it is larger than all of the memory."""
        self._drop(key)
        if block.nbytes > self.capacity:
            return
        while self.nbytes + block.nbytes > self.capacity:
            self._drop(next(iter(self._blocks)))
        self._blocks[key] = block
        self.nbytes += block.nbytes

    def forget(self, key: bytes) -> None:
        """As if it had never been asked for."""
        self._drop(key)
        self._asked.pop(key, None)

    def clear(self) -> None:
        self._blocks.clear()
        self._asked.clear()
        self.nbytes = 0

    def _drop(self, key: bytes) -> None:
        block = self._blocks.pop(key, None)
        if block is not None:
            self.nbytes -= block.nbytes
