"""Which rows a step reads: one seeded stream for each objective, neither knows of the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gritlm.errors import InputError
from gritlm.lm.inputs import at_least_one

Pick = tuple[int, int]  # number of the source, number of the row in it


class Sized(Protocol):
    """What a stream knows of a source."""

    @property
    def title(self) -> str: ...

    @property
    def weight(self) -> float: ...

    def __len__(self) -> int: ...


class Stream:
    """Rows without an end: each source in its own shuffled order, shuffled anew each pass.

    The order of a pass follows from seed, number of the source and number of the pass alone, which
    source comes next from the seed and how often was asked. Both are made of the raw bits of PCG64,
    which NumPy keeps the same for ever. Streams of one run want different seeds.

    With ``one_source`` a batch comes from one source, drawn by weight, and holds no row twice:
    where less than a batch of a pass is left, it is dropped and the next pass begins. Otherwise
    the source of each row is drawn by weight, no row is dropped, and a batch may hold a row of two
    passes.
    """

    def __init__(
        self, sources: Sequence[Sized], *, batch: int, seed: int, one_source: bool
    ) -> None:
        """A stream at its beginning.

        Args:
            batch: rows of a step, over all processes.
            seed: a whole number >= 0.

        Raises:
            InputError: for no sources, an empty one, a weight that is none, or, with
                ``one_source``, a source smaller than a batch.
        """
        self._batch = at_least_one(batch, name="batch")
        if seed < 0:
            raise InputError(f"seed={seed}; expected a whole number >= 0")
        self._seed = seed
        self._one_source = one_source
        self._titles = [source.title for source in sources]
        self._sizes = [len(source) for source in sources]
        weights = [float(source.weight) for source in sources]
        _check(self._titles, self._sizes, weights, batch=batch if one_source else 1)
        self._shares = np.cumsum(np.array(weights) / math.fsum(weights))
        self._given = 0
        self._draws = 0  # choices of a source so far
        self._pass = [0] * len(sources)
        self._position = [0] * len(sources)  # rows of the current pass behind us
        self._begin()

    def next(self) -> list[Pick]:
        """The rows of the next step, ``batch`` of them."""
        if self._one_source:
            source = self._choose(1)[0]
            if self._position[source] + self._batch > self._sizes[source]:
                self._turn(source)
            chosen = [source] * self._batch
        else:
            chosen = self._choose(self._batch)
        return [self._take(source) for source in chosen]

    def draw(self) -> Pick:
        """One more row, in place of one that turned out unusable; its source is drawn by weight.

        For streams without ``one_source``: it may repeat a row of the step. Who finds all rows
        unusable has to stop asking.
        """
        return self._take(self._choose(1)[0])

    @property
    def passes(self) -> float:
        """Rows given so far, over the rows of all sources."""
        return self._given / sum(self._sizes)

    @property
    def steps_per_pass(self) -> int:
        """Batches that hold as many rows as all sources together."""
        return math.ceil(sum(self._sizes) / self._batch)

    def state(self) -> dict[str, Any]:
        """Where the stream stands, for JSON."""
        return self._identity() | {
            "given": self._given,
            "draws": self._draws,
            "pass": list(self._pass),
            "position": list(self._position),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where ``state`` was taken; weights and batch may be others from there on.

        Raises:
            InputError: when the state is that of a stream over other rows, or with another seed, or
                is damaged.
        """
        for key, ours in self._identity().items():
            if state.get(key) != ours:
                raise InputError(
                    f"the checkpoint was made with {key} = {state.get(key)}, this run has {ours}; "
                    "resume with the data and settings it was made with, or start anew"
                )
        if not _is_place(state, self._sizes):
            raise InputError(
                "the checkpoint's place in the data is damaged; start from another one"
            )
        self._given = state["given"]
        self._draws = state["draws"]
        self._pass = list(state["pass"])
        self._position = list(state["position"])
        self._begin()

    def _identity(self) -> dict[str, Any]:
        sources = [list(pair) for pair in zip(self._titles, self._sizes, strict=True)]
        return {"seed": self._seed, "one_source": self._one_source, "sources": sources}

    def _begin(self) -> None:
        """Set up what follows from the counters."""
        self._bits = _bits(self._seed, 0)
        self._bits.advance(self._draws)
        self._orders = [self._order(source) for source in range(len(self._sizes))]

    def _choose(self, count: int) -> list[int]:
        """Sources drawn by weight."""
        self._draws += count
        uniform = (self._bits.random_raw(count) >> np.uint64(11)) * 2.0**-53
        found = np.searchsorted(self._shares, uniform, side="right")
        return np.minimum(found, len(self._sizes) - 1).tolist()

    def _take(self, source: int) -> Pick:
        if self._position[source] == self._sizes[source]:
            self._turn(source)
        row = int(self._orders[source][self._position[source]])
        self._position[source] += 1
        self._given += 1
        return source, row

    def _turn(self, source: int) -> None:
        self._pass[source] += 1
        self._position[source] = 0
        self._orders[source] = self._order(source)

    def _order(self, source: int) -> NDArray[np.intp]:
        keys = _bits(self._seed, source + 1, self._pass[source]).random_raw(self._sizes[source])
        return np.argsort(keys, kind="stable")


def _is_place(state: Mapping[str, Any], sizes: Sequence[int]) -> bool:
    """Return whether the counters of a state are those of a stream over sources of these sizes."""
    passes = state.get("pass")
    positions = state.get("position")
    if not isinstance(passes, list) or not isinstance(positions, list):
        return False
    counts = [state.get("given"), state.get("draws"), *passes, *positions]
    if not all(type(count) is int and count >= 0 for count in counts):
        return False
    fits = len(passes) == len(positions) == len(sizes)
    return fits and all(map(int.__le__, positions, sizes))


def _bits(seed: int, *path: int) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=path))


def _check(
    titles: Sequence[str], sizes: Sequence[int], weights: Sequence[float], *, batch: int
) -> None:
    if not titles:
        raise InputError("there are no sources; expected at least one")
    for title, size, weight in zip(titles, sizes, weights, strict=True):
        if not 0 < weight < math.inf:
            raise InputError(f"{title}: weight = {weight}; expected a number above 0")
        if size == 0:
            raise InputError(f"{title} has no rows; leave it out")
        if size < batch:
            raise InputError(
                f"{title} has {size} rows, a batch takes {batch} of one source and would hold some "
                "twice; lower the batch size, set same_source_batches = false, or leave it out"
            )
