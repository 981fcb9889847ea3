"""Embedding of tokenised parts on a device; batches shrink when memory runs out.

Shapes: N rows of a part, B of a batch, D of a vector.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gritlm.errors import InputError
from gritlm.scale.bulk.attempts import SLOWLY
from gritlm.scale.bulk.bulk_options import VectorForm
from gritlm.scale.bulk.part_rows import RejectedRow
from gritlm.scale.bulk.tokenising import TokenisedPart, as_column

if TYPE_CHECKING:
    from gritlm import GritLM
    from gritlm.lm.tokens import Prompt

_ROWS = 256  # most texts of a batch, as in GritLM.encode


@dataclass(frozen=True)
class WorkerOptions:
    """Settings of a worker that embeds.

    Attributes:
        model: arguments of :class:`gritlm.GritLM`.
        threads: number of CPU threads; None on a GPU, where the number does not matter.
        fingerprint: hash of the weights with which the job began; None for a new job.
        vectors: dimensions and data type of the vectors.
    """

    model: dict[str, Any]
    threads: int | None
    fingerprint: str | None = None
    vectors: VectorForm = field(default_factory=VectorForm)


@dataclass(frozen=True)
class EmbeddedPart:
    """Vectors of a part.

    Attributes:
        number: number of the part.
        ids: ids of the rows; none if the file of the part was there already.
        vectors_ND: their vectors.
        rejected: rows without a vector.
        tokens: number of tokens that were read.
        cut: number of rows that were truncated.
        fingerprint: hash of the weights.
    """

    number: int
    ids: list[str]
    vectors_ND: np.ndarray
    rejected: list[RejectedRow]
    tokens: int
    cut: int
    fingerprint: str


class VectorWorker:
    """The actor of Ray Data that embeds one part a call.

    Args:
        options: settings of the worker.
        attempts: list with the actor that counts the attempts.
        is_done: function of the number of a part that returns whether its file is there.
    """

    def __init__(
        self, options: WorkerOptions, attempts: Any, is_done: Callable[[int], bool]
    ) -> None:
        from gritlm import GritLM
        from gritlm.lm import threads
        from gritlm.lm.fingerprint import fingerprint

        if options.threads is not None:
            threads.keep(options.threads)
        self._model = GritLM(**options.model, mode="embedding")
        self._form = options.vectors
        self._attempts = attempts[0]
        self._is_done = is_done
        self._fingerprint = fingerprint(self._model.lm.decoder)
        if options.fingerprint not in (None, self._fingerprint):
            raise InputError(
                f"the weights of {self._model.source} have changed since the job began "
                f"(fingerprint {self._fingerprint}, before {options.fingerprint}); delete the "
                "staging folder to begin again"
            )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the vectors of a batch of tokenised parts."""
        done = [self._part(pickle.loads(content)) for content in batch["content"]]
        return {"part": batch["part"], "content": as_column([pickle.dumps(each) for each in done])}

    def _part(self, part: TokenisedPart) -> EmbeddedPart:
        import ray

        ended, bad, embedded = ray.get(self._attempts.begin.remote(part.number))
        if embedded and self._is_done(part.number):
            empty_ND = np.zeros((0, self._model.encoder.dimension), dtype=np.float32)
            formed_ND = self._formed(empty_ND)
            return EmbeddedPart(part.number, [], formed_ND, [], 0, 0, self._fingerprint)
        embedding = PartEmbedding(self._model, budget=self._model.encoder.token_budget >> ended)
        reasons = dict.fromkeys(bad, "the worker ended while it embedded this row alone")
        if ended >= SLOWLY:
            embedding.slow_down(
                lambda row: ray.get(self._attempts.announce.remote(part.number, row))
            )
        vectors_ND = embedding.embed(part.prompts(), reasons)
        kept = [row for row in range(len(part.ids)) if row not in reasons]
        ray.get(self._attempts.end.remote(part.number))
        return EmbeddedPart(
            part.number,
            [part.ids[row] for row in kept],
            self._formed(vectors_ND[kept]),
            [
                *part.rejected,
                *(RejectedRow(part.ids[row], reasons[row]) for row in sorted(reasons)),
            ],
            sum(part.lengths),
            part.cut,
            self._fingerprint,
        )

    def _formed(self, vectors_ND: np.ndarray) -> np.ndarray:
        """Return vectors with their dimensions and data type; float32 if they are scaled later."""
        import torch

        from gritlm.lm.vectors import to_precision, truncated

        form = self._form
        if form.truncate_dim is not None:
            normalised = self._model.settings.normalized
            whole = torch.from_numpy(vectors_ND)
            cut_ND = truncated(whole, form.truncate_dim, normalised=normalised)
            vectors_ND = cut_ND.numpy()
        return vectors_ND if form.is_scaled else to_precision(vectors_ND, form.precision)


class PartEmbedding:
    """Embedding of the rows of a part, in batches that fit in memory.

    Args:
        model: the model.
        budget: most tokens of a batch.
    """

    def __init__(self, model: GritLM, *, budget: int) -> None:
        self._encoder = model.encoder
        self._announce: Callable[[int], None] | None = None
        self._budget = budget
        self._rows = _ROWS

    def slow_down(self, announce: Callable[[int], None]) -> None:
        """Embed single rows, each of which is announced.

        Args:
            announce: function of the number of a row.
        """
        self._rows = 1
        self._announce = announce

    def embed(self, prompts: Sequence[Prompt], reasons: dict[int, str]) -> np.ndarray:
        """Return the vectors (N, D) of prompts.

        Args:
            prompts: the prompts of N rows.
            reasons: rows to leave out with the reason; rows that fail are added. Their vectors are
                zeros.
        """
        from gritlm.lm.encoder import batches

        vectors_ND = np.zeros((len(prompts), self._encoder.dimension), dtype=np.float32)
        todo = [row for row in range(len(prompts)) if row not in reasons]
        while todo:
            chosen = [prompts[row] for row in todo]
            rest: list[int] = []
            for indices in batches(chosen, self._rows, self._budget):
                rows = [todo[index] for index in indices]
                if rest:  # the batches are smaller from here on
                    rest += rows
                elif (found := self._batch([prompts[row] for row in rows], rows)) is None:
                    rest = self._smaller(rows, prompts, reasons)
                else:
                    vectors_ND[rows] = found
                    self._require_finite(found, rows, reasons)
            todo = sorted(rest)
        return vectors_ND

    def _batch(self, batch: Sequence[Prompt], rows: Sequence[int]) -> np.ndarray | None:
        """Return the vectors (B, D) of a batch; None if memory ran out."""
        from gritlm.evaluation.memory import is_out_of_memory

        if self._announce is not None:
            self._announce(rows[0])
        try:
            return np.asarray(self._encoder.vectors(batch).numpy())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _smaller(
        self, rows: list[int], prompts: Sequence[Prompt], reasons: dict[int, str]
    ) -> list[int]:
        """Halve the batches, and return the rows of the failed one that are to be tried again."""
        from gritlm.evaluation.memory import free

        free()
        if len(rows) == 1:
            size = len(prompts[rows[0]].ids)
            reasons[rows[0]] = f"out of memory with this row alone, which has {size} tokens"
            return []
        self._rows = min(self._rows, max(1, len(rows) // 2))
        return rows

    def _require_finite(
        self, found_BD: np.ndarray, rows: Sequence[int], reasons: dict[int, str]
    ) -> None:
        for row in np.flatnonzero(~np.isfinite(found_BD).all(axis=1)):
            reasons[rows[int(row)]] = "its vector is not finite in the data type of the weights"
