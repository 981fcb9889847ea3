"""Admission and eviction policy: GreedyDual-Size with frequency.

``worth = age + (hits + 1) * cost / bytes``: the cost of recomputing a block for each of its
requests, per byte on disk. ``age`` is the store's clock at the last use of the block. Each eviction
sets the clock to the worth of the evicted block, so blocks that are not used fall behind. A new
block is admitted unless it would displace blocks of higher worth. Each refused block moves the
clock by its own worth divided by the number of blocks, so a store full of old, popular blocks
admits new ones after some rounds.
"""

from __future__ import annotations

from collections.abc import Iterable

from gritlm.rag.kvstore.record import IndexEntry

_LONG = 8192  # tokens at which attention costs as much as all the rest (order of a small model)


def recompute_cost(tokens: int) -> float:
    """Return the cost of prefilling this number of tokens, in tokens of a short text."""
    return tokens * (1 + tokens / _LONG)


def worth(entry: IndexEntry) -> float:
    """Return the worth of a block per byte, on the store's clock."""
    return entry.age + (entry.hits + 1) * entry.cost / entry.nbytes


def clock_step(entry: IndexEntry, blocks: int) -> float:
    """Return the step of the clock when a new block is refused.

    Args:
        entry: index entry of the refused block.
        blocks: number of blocks in the store.
    """
    return entry.cost / entry.nbytes / max(blocks, 1)


def cheapest(
    entries: Iterable[tuple[bytes, IndexEntry]], nbytes: int, *, below: float = float("inf")
) -> list[tuple[bytes, IndexEntry]]:
    """Return the blocks of least worth that together take ``nbytes`` bytes.

    Blocks of equal worth are taken in the order of writing, so that whole segments become free.

    Args:
        entries: keys and index entries of the stored blocks.
        nbytes: bytes to free.
        below: highest worth of a block that may be taken.
    """
    chosen: list[tuple[bytes, IndexEntry]] = []
    freed = 0
    ranked = sorted(
        (worth(entry), entry.segment, entry.offset, key, entry) for key, entry in entries
    )
    for value, _, _, key, entry in ranked:
        if freed >= nbytes or value > below:
            break
        chosen.append((key, entry))
        freed += entry.nbytes
    return chosen
