"""Sampler: one seeded, resumable stream of row indices for each objective."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gritlm.errors import InputError, at_least_one

Pick = tuple[int, int]  # index of the source, index of the row


class Sized(Protocol):
    """Source of a stream: name, weight and number of rows."""

    @property
    def title(self) -> str: ...

    @property
    def weight(self) -> float: ...

    def __len__(self) -> int: ...


class Stream:
    """Endless stream of rows; each source is shuffled for each pass.

    The order of a pass depends only on the seed, the index of the source and the number of the
    pass. The choice of sources depends only on the seed and the number of earlier choices. Both use
    the raw bits of PCG64, which NumPy guarantees not to change. The streams of a run need different
    seeds.

    With ``one_source`` all rows of a batch are from one source, drawn by weight, and no row is
    repeated: the rest of a pass that is smaller than a batch is dropped. Otherwise the source of
    each row is drawn by weight, no row is dropped, and a batch may have a row of two passes.
    """

    def __init__(
        self, sources: Sequence[Sized], *, batch: int, seed: int, one_source: bool
    ) -> None:
        """Start a stream.

        Args:
            sources: the sources.
            batch: number of rows of a step, over all processes.
            seed: whole number >= 0.
            one_source: take all rows of a batch from one source.

        Raises:
            InputError: there is no source, a source is empty, a weight is not positive and finite,
                or, with ``one_source``, a source is smaller than a batch.
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
        self._taken = 0
        self._draws = 0  # choices of a source so far
        self._pass = [0] * len(sources)
        self._position = [0] * len(sources)  # rows of the current pass already taken
        self._derive()

    def next(self) -> list[Pick]:
        """Return the ``batch`` rows of the next step."""
        if self._one_source:
            source = self._choose(1)[0]
            if self._position[source] + self._batch > self._sizes[source]:
                self._start_pass(source)
            chosen = [source] * self._batch
        else:
            chosen = self._choose(self._batch)
        return [self._take(source) for source in chosen]

    def draw(self) -> Pick:
        """Return one more row, to replace an unusable one; its source is drawn by weight.

        For streams without ``one_source``. It may repeat a row of the step. The caller bounds the
        number of draws.
        """
        return self._take(self._choose(1)[0])

    @property
    def passes(self) -> float:
        """Number of passes so far: rows taken, divided by the rows of all sources."""
        return self._taken / sum(self._sizes)

    @property
    def steps_per_pass(self) -> int:
        """Number of batches with as many rows as all sources together."""
        return math.ceil(sum(self._sizes) / self._batch)

    def state(self) -> dict[str, Any]:
        """Return the position of the stream as JSON values."""
        return self._identity() | {
            "given": self._taken,
            "draws": self._draws,
            "pass": list(self._pass),
            "position": list(self._position),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue at the position of ``state``; weights and batch may differ from then on.

        Raises:
            InputError: the state is damaged, or from a stream with other rows or another seed.
        """
        for key, ours in self._identity().items():
            if state.get(key) != ours:
                raise InputError(
                    f"the checkpoint was made with {key} = {state.get(key)}, this run has {ours}; "
                    "resume with the data and settings it was made with, or start a new run"
                )
        if not _is_valid(state, self._sizes):
            raise InputError(
                "the checkpoint's place in the data is damaged; start from another one"
            )
        self._taken = state["given"]
        self._draws = state["draws"]
        self._pass = list(state["pass"])
        self._position = list(state["position"])
        self._derive()

    def _identity(self) -> dict[str, Any]:
        sources = [list(pair) for pair in zip(self._titles, self._sizes, strict=True)]
        return {"seed": self._seed, "one_source": self._one_source, "sources": sources}

    def _derive(self) -> None:
        """Derive random bits and orders from the counters."""
        self._bits = _bits(self._seed, 0)
        self._bits.advance(self._draws)
        self._orders = [self._order(source) for source in range(len(self._sizes))]

    def _choose(self, count: int) -> list[int]:
        """Draw sources by weight."""
        self._draws += count
        uniform = (self._bits.random_raw(count) >> np.uint64(11)) * 2.0**-53
        found = np.searchsorted(self._shares, uniform, side="right")
        return np.minimum(found, len(self._sizes) - 1).tolist()

    def _take(self, source: int) -> Pick:
        if self._position[source] == self._sizes[source]:
            self._start_pass(source)
        row = int(self._orders[source][self._position[source]])
        self._position[source] += 1
        self._taken += 1
        return source, row

    def _start_pass(self, source: int) -> None:
        self._pass[source] += 1
        self._position[source] = 0
        self._orders[source] = self._order(source)

    def _order(self, source: int) -> NDArray[np.intp]:
        keys = _bits(self._seed, source + 1, self._pass[source]).random_raw(self._sizes[source])
        return np.argsort(keys, kind="stable")


def _is_valid(state: Mapping[str, Any], sizes: Sequence[int]) -> bool:
    """Return whether the counters of a state are valid for sources of these sizes."""
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
