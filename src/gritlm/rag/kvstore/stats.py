"""What a store tells of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gritlm.lm.kv.block import KVBlock
from gritlm.rag.kvstore.access import RecordAccess
from gritlm.rag.kvstore.manifest import Manifest
from gritlm.rag.kvstore.memory_cache import MemoryCache


@dataclass(frozen=True)
class FetchCounts:
    """A block as it came.

    Attributes:
        tier: "memory", or "disk" (which the system may keep in its page cache).
        nbytes: read from there.
    """

    block: KVBlock
    tier: str
    nbytes: int


@dataclass(frozen=True)
class StoreStats:
    """What a store holds, and what this object did with it.

    Attributes:
        model: name of the model that made it.
        hits: of all blocks together, as their writers noted them.
        live_bytes: of records that can be fetched.
        dead_bytes: of records that are gone, until their segments are compacted.
        disk_bytes: the budget.
        from_memory: fetches that were answered from memory.
        from_disk: fetches that were answered from disk.
        missed: fetches of what is not stored.
        refused: newcomers that were not admitted.
        evicted: blocks that had to go for them.
        damages: places that were found damaged.
    """

    model: str
    storage: str
    blocks: int
    tokens: int
    hits: int
    live_bytes: int
    dead_bytes: int
    disk_bytes: int
    segments: int
    memory_blocks: int
    memory_used: int
    memory_bytes: int
    from_memory: int
    from_disk: int
    missed: int
    refused: int
    evicted: int
    damages: int


def gather(
    about: Manifest, access: RecordAccess, memory: MemoryCache, fetched: Mapping[str, int]
) -> StoreStats:
    """All of it, now. ``fetched`` counts fetches by tier.

    Raises:
        IndexDamagedError: when the index cannot be read.
    """
    index = access.index
    entries = access.entries()
    live = sum(entry.nbytes for entry in entries.values())
    sizes = index.sizes()
    return StoreStats(
        model=about.name,
        storage=about.storage,
        blocks=len(entries),
        tokens=sum(entry.tokens for entry in entries.values()),
        hits=sum(entry.hits for entry in entries.values()),
        live_bytes=live,
        dead_bytes=sum(sizes.values()) - live,
        disk_bytes=about.disk_bytes,
        segments=len(sizes),
        memory_blocks=len(memory),
        memory_used=memory.nbytes,
        memory_bytes=memory.capacity,
        from_memory=fetched["memory"],
        from_disk=fetched["disk"],
        missed=fetched["missed"],
        refused=index.refused,
        evicted=index.evicted,
        damages=len(access.damages),
    )
