"""Attempts at parts, counted outside of the workers: how a row that ends its worker is found."""

from __future__ import annotations

from typing import Any

SLOWLY = 3  # ended attempts after which the rows of a part are embedded one by one


class Attempts:
    """The actor that counts the attempts at each part.

    A worker whose process ends, as the system ends one that takes too much memory, cannot say at
    which row. The next attempt at its part takes smaller batches, a later one single rows, each of
    which is announced here first. The row at which that one ends is left out.
    """

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}
        self._row: dict[int, int] = {}
        self._bad: dict[int, set[int]] = {}
        self._embedded: set[int] = set()

    def begin(self, part: int) -> tuple[int, list[int], bool]:
        """Return how often a part was begun in vain, the rows at which that ended, and its state.

        Args:
            part: number of the part.

        Returns:
            The number, the rows, and whether the part was embedded before: Ray computes a part
            again if a node is lost that had results of it.
        """
        before = self._begun.get(part, 0)
        self._begun[part] = before + 1
        if part in self._row:
            self._bad.setdefault(part, set()).add(self._row.pop(part))
        return before, sorted(self._bad.get(part, ())), part in self._embedded

    def announce(self, part: int, row: int) -> None:
        """Note the single row that is embedded now.

        Args:
            part: number of the part.
            row: the row in the part.
        """
        self._row[part] = row

    def end(self, part: int) -> None:
        """Note that all rows of a part are embedded.

        Args:
            part: number of the part.
        """
        self._row.pop(part, None)
        self._begun.pop(part, None)
        self._embedded.add(part)


def start_attempts() -> Any:
    """Return the actor, on the node of this process: it must outlive every worker."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Attempts).options(num_cpus=0, scheduling_strategy=here).remote()
