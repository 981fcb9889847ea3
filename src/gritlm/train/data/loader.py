"""Loader: batches of each step from two independent streams, embedding and generative.

The trainer calls :meth:`Loader.next` for each step. Each process draws the rows of all processes
and takes its share, so the rows of a step do not depend on the number of processes. Random choices
for a row depend only on the seed, the step and the index in the step.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from gritlm.errors import InputError
from gritlm.lm.tokens import Prompt
from gritlm.train.config import SourceConfig, TrainConfig
from gritlm.train.data import sources
from gritlm.train.data.collate import Collator, EmbeddingBatch, ScoredBatch
from gritlm.train.data.examples import EmbeddingExample, Kind, ScoredExample
from gritlm.train.data.rag_samples import Blocked
from gritlm.train.data.sampler import Stream
from gritlm.train.data.sources import Dataset

log = logging.getLogger(__name__)

_TRIES = 1000  # consecutive rows without a token in the loss


@dataclass(frozen=True)
class Batch:
    """Batch of this process for one step.

    Attributes:
        embedding: batch of the embedding objective; None if it is not trained.
        samples: samples of the generation objective; empty if it is not trained.
        questions: groups of the question objective: a question after its own passage, then after
            other passages.
    """

    embedding: EmbeddingBatch | ScoredBatch | None
    samples: list[Prompt]
    questions: list[tuple[Blocked, ...]] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        read = 0 if self.embedding is None else self.embedding.tokens
        asked = sum(len(sample.ids) for group in self.questions for sample in group)
        return read + asked + sum(len(sample.ids) for sample in self.samples)


@dataclass(frozen=True)
class BatchShare:
    """Share of this process in the rows of a step.

    Attributes:
        rank: rank of the process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    def of(self, items: Sequence[Any]) -> list[Any]:
        """Return the items of this process."""
        each = len(items) // self.size
        return list(items[self.rank * each : (self.rank + 1) * each])


class Loader:
    """Batches of a run, one for each step.

    Attributes:
        rows: datasets by stream, ``embedding`` and ``generative`` (with the RAG rows).
        skipped: number of generative rows so far without a token in the loss after truncation.
    """

    def __init__(self, run: TrainConfig, collator: Collator, share: BatchShare) -> None:
        """Load the sources of a run.

        Args:
            run: settings of the run.
            collator: converts examples to batches.
            share: share of this process.

        Raises:
            InputError: a source cannot be read, or is smaller than a batch that it must fill alone.
        """
        self._run = run
        self._collator = collator
        self._share = share
        self.skipped = 0
        self.rows: dict[str, list[Dataset]] = {}
        self._streams: dict[str, Stream] = {}
        training = run.training
        data = run.data
        factor = training.gradient_accumulation_steps * share.size
        if run.embeds:
            pairs = self._load(data.embedding, "embedding")
            _require_apart(pairs, one_source=data.same_source_batches)
            self._add(
                "embedding",
                pairs,
                batch=training.per_device_train_batch_size * factor,
                one_source=data.same_source_batches,
            )
        if run.writes:
            chats = self._load(data.generative, "generative")
            self._add(
                "generative",
                [*chats, *self._load(data.rag, "rag")],
                batch=training.per_device_generative_bs * factor,
                one_source=False,
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the embedding rows, or the generative rows if trained alone."""
        return self._streams["embedding" if self._run.embeds else "generative"].steps_per_pass

    def next(self, step: int) -> Batch:
        """Return the batch of a step; call it for each step in order.

        Args:
            step: number of the step, from 1.

        Raises:
            InputError: a thousand consecutive generative rows have no token in the loss.
        """
        embedding = None
        questions = []
        if stream := self._streams.get("embedding"):
            chosen_rows = stream.next()
            embedding = self._embedding(chosen_rows, step)
            questions = self._question_groups(chosen_rows, step)
        samples = []
        if stream := self._streams.get("generative"):
            found = [
                self._sample(stream, chosen, step, place)
                for place, chosen in enumerate(stream.next())
            ]
            samples = self._share.of(found)
        return Batch(embedding, samples, questions)

    def state(self) -> dict[str, Any]:
        """Return the position in both streams as JSON values."""
        streams = {name: stream.state() for name, stream in self._streams.items()}
        return {"streams": streams, "skipped": self.skipped}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a :meth:`state`.

        Raises:
            InputError: the state is damaged, or belongs to other streams or rows.
        """
        streams = state.get("streams")
        count = state.get("skipped")
        for name, stream in self._streams.items():
            found = streams.get(name) if isinstance(streams, dict) else None
            if not isinstance(found, dict) or type(count) is not int:
                raise InputError(f"the checkpoint has no place in the {name} rows; it is damaged")
            stream.restore(found)
        self.skipped = int(count or 0)

    def _load(self, chosen: Sequence[SourceConfig], kind: Kind) -> list[Dataset]:
        data = self._run.data
        check = self._collator.require_usable
        return [
            sources.load(
                each, kind, deduplicate=data.deduplicate, skip_bad=data.skip_bad_rows, check=check
            )
            for each in chosen
        ]

    def _add(self, name: str, rows: list[Dataset], *, batch: int, one_source: bool) -> None:
        self.rows[name] = rows
        number = ("embedding", "generative").index(name)
        seed = 2 * self._run.training.seed + number
        self._streams[name] = Stream(rows, batch=batch, seed=seed, one_source=one_source)

    def _rows(self, name: str, chosen: Sequence[tuple[int, int]]) -> list[Any]:
        return [self.rows[name][source][row] for source, row in chosen]

    def _random(self, name: str, step: int, place: int) -> Random:
        return Random(f"{self._run.training.seed} {name} {step} {place}")

    def _embedding(
        self, chosen: Sequence[tuple[int, int]], step: int
    ) -> EmbeddingBatch | ScoredBatch:
        rows = self._rows("embedding", chosen)
        own_rows = self._share.of(rows)
        draws = [self._random("embedding", step, place) for place in range(len(rows))]
        try:
            if isinstance(rows[0], ScoredExample):
                return self._collator.scored(own_rows)
            return self._collator.embedding(own_rows, self._share.of(draws))
        except InputError:
            self._require_usable(self._share.of(chosen))
            raise

    def _require_usable(self, chosen: Sequence[tuple[int, int]]) -> None:
        """Raise an error with the place of the first row that cannot be used.

        All rows are checked at loading, but their images and sounds only with ``check_media``.
        """
        for source, row in chosen:
            found = self.rows["embedding"][source]
            try:
                self._collator.require_usable(found[row], reads_media=True)
            except InputError as error:
                raise InputError(f"{found.place(row)}: {error}") from None

    def _question_groups(
        self, chosen: Sequence[tuple[int, int]], step: int
    ) -> list[tuple[Blocked, ...]]:
        """Return the first ``question_rows`` groups of this process in the batch."""
        if not self._run.writes or not self._run.loss.question_weight:
            return []
        asks = [source.questions for source in self._run.data.embedding]
        places = [place for place, (source, _) in enumerate(chosen) if asks[source]]
        groups = []
        for place in self._share.of(places):
            (row,) = self._rows("embedding", [chosen[place]])
            if isinstance(row, EmbeddingExample):
                draw = self._random("question", step, place)
                groups.append(self._collator.question_group(row, draw))
        return [group for group in groups if group][: self._run.rag.question_rows]

    def _sample(self, stream: Stream, chosen: tuple[int, int], step: int, place: int) -> Prompt:
        random = self._random("generative", step, place)
        for _ in range(_TRIES):
            if (sample := self._collate(chosen, random)) is not None:
                return sample
            self.skipped += 1
            chosen = stream.draw()
        raise InputError(
            f"of {_TRIES} generative rows, none has anything to train within generative_max_len = "
            f"{self._run.data.generative_max_len} tokens; raise it"
        )

    def _collate(self, chosen: tuple[int, int], random: Random) -> Prompt | None:
        """Return the sample of a row; None without a token in the loss (logged the first time)."""
        (row,) = self._rows("generative", [chosen])
        limit = self._run.data.generative_max_len
        reason = f"cut to generative_max_len={limit}, nothing is left to train of this row"
        try:
            sample = self._collator.sample(row, random)
        except InputError as error:
            if not self._run.data.skip_bad_rows:
                raise InputError(f"{self._place(chosen)}: {error}") from None
            sample = None
            reason = str(error)
        if sample is None and not self.skipped:
            log.warning("%s: %s; such rows are skipped and counted", self._place(chosen), reason)
        return sample

    def _place(self, chosen: tuple[int, int]) -> str:
        source, row = chosen
        return self.rows["generative"][source].place(row)


def _require_apart(sources: Sequence[Dataset], *, one_source: bool) -> None:
    """Raise an error if scored pairs share steps with other rows or other score scales."""
    scored = next((rows.title for rows in sources if rows.scored), None)
    if scored is not None and len(sources) > 1 and not one_source:
        raise InputError(
            f"{scored} has scored pairs, which need steps of their own; set same_source_batches = "
            "true, or leave the other embedding sources out"
        )
