"""What a block is worth: the rule of admission and eviction.

``worth = age + (hits + 1) * cost / bytes``: what it would cost to compute it again for each time
that it was asked for, a byte that it takes (GreedyDual-Size with frequency). ``age`` is the store's
clock at its last use, and the clock goes to the worth of what was evicted last: what is not used
falls behind. A newcomer comes in unless it would take the place of something that is worth more.
Each one that is refused moves the clock by its own worth over the number of blocks, so a store of
old favourites opens up after some rounds of newcomers.
"""

from __future__ import annotations

from collections.abc import Iterable

from gritlm.rag.kvstore.lmdb.lmdb_index import IndexEntry

_LONG = 8192  # tokens at which attention costs as much as all the rest (order of a small model)


def cost(tokens: int) -> float:
    """Of reading so many tokens again; in tokens of a short text."""
    return tokens * (1 + tokens / _LONG)


def of(entry: IndexEntry) -> float:
    """Worth a byte, on the store's clock."""
    return entry.age + (entry.hits + 1) * entry.cost / entry.nbytes


def refused(entry: IndexEntry, blocks: int) -> float:
    """How far the clock moves when this newcomer is not admitted to a store of so many blocks."""
    return entry.cost / entry.nbytes / max(blocks, 1)


def cheapest(
    entries: Iterable[tuple[bytes, IndexEntry]], nbytes: int, *, below: float = float("inf")
) -> list[tuple[bytes, IndexEntry]]:
    """The least valuable blocks, until they come to ``nbytes``; none that is worth over ``below``.

    Of the same worth, those that were written first go first, so that whole segments come free.
    """
    chosen: list[tuple[bytes, IndexEntry]] = []
    freed = 0
    ranked = sorted((of(entry), entry.segment, entry.offset, key, entry) for key, entry in entries)
    for worth, _, _, key, entry in ranked:
        if freed >= nbytes or worth > below:
            break
        chosen.append((key, entry))
        freed += entry.nbytes
    return chosen
