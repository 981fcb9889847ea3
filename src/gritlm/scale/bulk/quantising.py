"""Quantising of vectors to 8 bits, when all vectors of a job are known.

A value depends on the lowest and the highest value of its dimension over all vectors. Workers first
return the extremes of some parts, then write the parts with the extremes of all.

Shapes: N rows of a part, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gritlm.lm.vectors import scaled
from gritlm.scale import cluster
from gritlm.scale.bulk.staging import Staging, part_file, read_vectors, vector_table

_PARTS = 64  # of a call of a worker


def quantise(staging: Staging, count: int, precision: str) -> None:
    """Write the parts of a job in 8 bits; those that are written already are kept.

    Args:
        staging: the folders of the job.
        count: number of parts, all of which are embedded.
        precision: ``int8`` or ``uint8``.

    Raises:
        ClusterError: for a worker that fails.
    """
    import ray

    parts = ray.data.from_items([{"part": number} for number in range(count)])
    try:
        found = parts.map_batches(Extremes(staging).of_parts, batch_size=_PARTS).take_all()
        rows = found or [{"low": 0.0, "high": 0.0}]  # all rows of the job are rejected
        low_D = np.min([row["low"] for row in rows], axis=0).astype(np.float32)
        high_D = np.max([row["high"] for row in rows], axis=0).astype(np.float32)
        writer = QuantisedWriter(staging, low_D, high_D, precision)
        parts.map_batches(writer.write_parts, batch_size=_PARTS).materialize()
    except Exception as error:
        raise cluster.explain(error, "quantising of the vectors") from None


@dataclass(frozen=True)
class Extremes:
    """Function of Ray Data that finds the extremes of parts.

    Attributes:
        staging: the folders of the job.
    """

    staging: Staging

    def of_parts(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return lowest and highest value of each dimension in some parts; no row without any."""
        found = [read_vectors(part_file(self.staging.floats, int(n))) for n in batch["part"]]
        filled = [each.vectors_ND for each in found if len(each.ids)]
        return {
            "low": [np.min([each.min(axis=0) for each in filled], axis=0)] if filled else [],
            "high": [np.max([each.max(axis=0) for each in filled], axis=0)] if filled else [],
        }


@dataclass(frozen=True)
class QuantisedWriter:
    """Function of Ray Data that writes parts in 8 bits.

    Attributes:
        staging: the folders of the job.
        low_D: lowest value of each dimension.
        high_D: highest value of each dimension.
        precision: ``int8`` or ``uint8``.
    """

    staging: Staging
    low_D: np.ndarray
    high_D: np.ndarray
    precision: str

    def write_parts(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write some parts, and return their numbers."""
        for number in map(int, batch["part"]):
            target = part_file(self.staging.folder, number)
            if not target.exists():
                part = read_vectors(part_file(self.staging.floats, number))
                levels_ND = scaled(part.vectors_ND, self.low_D, self.high_D, self.precision)
                target.write(vector_table(part.ids, levels_ND, part.fingerprint))
        return {"part": batch["part"]}
