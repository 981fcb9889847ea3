"""Sources -> what each step reads: two independent streams, the same whatever the processes are.

Each process draws the rows of all processes and takes its part, so that one process and two read
the same. What is drawn for a row depends on seed, step and place in the step only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from gritlm.errors import InputError
from gritlm.lm.tokens import Prompt
from gritlm.train.config import SourceConfig, TrainConfig
from gritlm.train.data import sources
from gritlm.train.data.collate import Collator, EmbeddingBatch, ScoredBatch
from gritlm.train.data.examples import Kind, ScoredExample
from gritlm.train.data.sampler import Stream
from gritlm.train.data.sources import Dataset

log = logging.getLogger(__name__)

_TRIES = 1000  # rows in a row without anything to train


@dataclass(frozen=True)
class Batch:
    """What this process reads in one step; a half that is not trained is empty."""

    embedding: EmbeddingBatch | ScoredBatch | None
    samples: list[Prompt]

    @property
    def tokens(self) -> int:
        read = 0 if self.embedding is None else self.embedding.tokens
        return read + sum(len(sample.ids) for sample in self.samples)


@dataclass(frozen=True)
class BatchShare:
    """Which process of how many this one is."""

    rank: int = 0
    size: int = 1

    def of(self, items: Sequence[Any]) -> list[Any]:
        each = len(items) // self.size
        return list(items[self.rank * each : (self.rank + 1) * each])


class Loader:
    """Batches of a run, one a step.

    Attributes:
        rows: sources by stream, ``embedding`` and ``generative`` (RAG rows among these).
        skipped: generative rows so far that truncation left nothing to train of.
    """

    def __init__(self, run: TrainConfig, collator: Collator, share: BatchShare) -> None:
        """
        Raises:
            InputError: for a source that cannot be read, or is smaller than a batch of its own.
        """
        self._run = run
        self._collator = collator
        self._share = share
        self.skipped = 0
        self.rows: dict[str, list[Dataset]] = {}
        self._streams: dict[str, Stream] = {}
        said = run.training
        data = run.data
        times = said.gradient_accumulation_steps * share.size
        if run.embeds:
            pairs = self._load(data.embedding, "embedding")
            _require_apart(pairs, one_source=data.same_source_batches)
            self._add(
                "embedding",
                pairs,
                batch=said.per_device_train_batch_size * times,
                one_source=data.same_source_batches,
            )
        if run.writes:
            chats = self._load(data.generative, "generative")
            self._add(
                "generative",
                [*chats, *self._load(data.rag, "rag")],
                batch=said.per_device_generative_bs * times,
                one_source=False,
            )

    @property
    def steps_per_epoch(self) -> int:
        """Of the embedding rows, or of the generative ones where only these are trained."""
        return self._streams["embedding" if self._run.embeds else "generative"].steps_per_pass

    def next(self, step: int) -> Batch:
        """The batch of a step, counted from 1; steps are asked for in their order.

        Raises:
            InputError: when none of a thousand generative rows leaves anything to train.
        """
        embedding = None
        if stream := self._streams.get("embedding"):
            embedding = self._embedding(self._rows("embedding", stream.next()), step)
        samples = []
        if stream := self._streams.get("generative"):
            found = [
                self._sample(stream, chosen, step, place)
                for place, chosen in enumerate(stream.next())
            ]
            samples = self._share.of(found)
        return Batch(embedding, samples)

    def state(self) -> dict[str, Any]:
        """Where both streams stand, as JSON takes it."""
        streams = {name: stream.state() for name, stream in self._streams.items()}
        return {"streams": streams, "skipped": self.skipped}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`.

        Raises:
            InputError: for a state of other streams or rows, or one that is damaged.
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

    def _embedding(self, rows: list[Any], step: int) -> EmbeddingBatch | ScoredBatch:
        mine = self._share.of(rows)
        if isinstance(rows[0], ScoredExample):
            return self._collator.scored(mine)
        draws = [self._random("embedding", step, place) for place in range(len(rows))]
        return self._collator.embedding(mine, self._share.of(draws))

    def _sample(self, stream: Stream, chosen: tuple[int, int], step: int, place: int) -> Prompt:
        random = self._random("generative", step, place)
        for _ in range(_TRIES):
            if (sample := self._made(chosen, random)) is not None:
                return sample
            self.skipped += 1
            chosen = stream.draw()
        raise InputError(
            f"of {_TRIES} generative rows, none has anything to train within generative_max_len = "
            f"{self._run.data.generative_max_len} tokens; raise it"
        )

    def _made(self, chosen: tuple[int, int], random: Random) -> Prompt | None:
        """Return the sample of a row; None when there is none, which is logged the first time."""
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
    """Scored pairs share a step neither with other rows nor with scores of another scale."""
    scored = next((rows.title for rows in sources if rows.scored), None)
    if scored is not None and len(sources) > 1 and not one_source:
        raise InputError(
            f"{scored} has scored pairs, which need steps of their own; set same_source_batches = "
            "true, or leave the other embedding sources out"
        )
