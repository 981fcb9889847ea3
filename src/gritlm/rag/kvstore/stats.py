"""Statistics of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gritlm.lm.kv.block import KVBlock
from gritlm.rag.kvstore.manifest import Manifest
from gritlm.rag.kvstore.reads import MemoryCache, RecordAccess


@dataclass(frozen=True)
class FetchCounts:
    """Fetched KV block, and the tier it was read from.

    Attributes:
        block: the KV block, on the CPU.
        tier: "memory", "disk" (which the system may have in its page cache) or "shared".
        nbytes: bytes read from that tier.
    """

    block: KVBlock
    tier: str
    nbytes: int


@dataclass(frozen=True)
class StoreStats:
    """Contents of a store, and counts of what this object has done.

    Attributes:
        model: name of the model that made the blocks.
        storage: number format on disk.
        blocks: number of stored blocks.
        tokens: tokens of all blocks.
        hits: fetches of all stored blocks, as recorded by writers.
        live_bytes: bytes on disk of blocks that can be fetched.
        dead_bytes: bytes on disk of removed blocks, until their segments are compacted.
        disk_bytes: byte budget on disk.
        segments: number of segment files.
        memory_blocks: number of blocks in the memory cache.
        memory_used: bytes of the memory cache in use.
        memory_bytes: byte limit of the memory cache.
        from_memory: fetches served from memory.
        from_disk: fetches served from disk.
        from_shared: fetches served from shared storage.
        missed: fetches of blocks that are not stored.
        refused: new blocks that were not admitted.
        evicted: blocks that were evicted.
        damages: number of damages found.
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
    from_shared: int
    missed: int
    refused: int
    evicted: int
    damages: int


def gather(
    about: Manifest, access: RecordAccess, memory: MemoryCache, fetched: Mapping[str, int]
) -> StoreStats:
    """Return the current statistics of a store.

    Args:
        about: manifest of the store.
        access: access to its records.
        memory: cache of its blocks.
        fetched: counts of fetches by tier, "missed" included.

    Raises:
        IndexDamagedError: if the index cannot be read.
    """
    writer = access.writer
    entries = access.entries()
    live = sum(entry.nbytes for entry in entries.values())
    sizes = access.index.sizes()
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
        from_shared=fetched["shared"],
        missed=fetched["missed"],
        refused=0 if writer is None else writer.refused,
        evicted=0 if writer is None else writer.evicted,
        damages=len(access.damages),
    )
