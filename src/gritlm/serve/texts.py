"""Texts that wait to be embedded: batches of like-sized ones, across requests.

Shapes: N texts of a request, B of a batch, D dimensions.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

import torch

from gritlm.errors import ModelError
from gritlm.lm.encoder import batches
from gritlm.lm.gritlm import GritLM
from gritlm.lm.tokens import Prompt
from gritlm.serve.inbox import Inbox, Job
from gritlm.serve.work import Done, Failed, ToEmbed

log = logging.getLogger(__name__)

_ROWS = 256  # most texts of a batch
_WINDOW = 4 * _ROWS  # oldest texts among which those of like size are looked for


class NobodyWantsItError(Exception):
    """All requests of a batch were cancelled while it was read."""


class _Request:
    """Texts of one request, and the vectors that are there."""

    def __init__(self, job: Job, work: ToEmbed, dimension: int) -> None:
        self.job, self.prompts = job, work.prompts
        with torch.inference_mode(False):  # it may arrive while a batch is read in that mode
            self.vectors_ND = torch.empty(len(work.prompts), dimension)
        self.left = len(work.prompts)
        self.failed = False

    @property
    def wanted(self) -> bool:
        return not self.failed and not self.job.cancelled


_Row = tuple[_Request, int]


class Texts:
    """First come, first served; only the model's thread may touch it.

    Args:
        budget: tokens of a batch; a longer text is alone in its batch.
    """

    def __init__(self, model: GritLM, inbox: Inbox, budget: int) -> None:
        self._model, self._inbox, self._budget = model, inbox, budget
        self._rows: deque[_Row] = deque()
        self.reading = 0  # requests with a text in the batch that is read

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, job: Job, work: ToEmbed) -> None:
        request = _Request(job, work, self._model.embedding_dimension)
        if not work.prompts:
            job.send(Done(request.vectors_ND.numpy()))
        self._rows.extend((request, row) for row in range(len(work.prompts)))

    def forget_cancelled(self) -> None:
        """What nobody wants any more is not read."""
        for request in {id(request): request for request, _ in self._rows}.values():
            if not request.wanted:
                self._inbox.dropped(request.job)
        self._rows = deque(row for row in self._rows if row[0].wanted)

    def fail(self, error: Exception) -> None:
        """Nothing that waits is read."""
        for request, _ in self._rows:
            self._fail(request, error)
        self._rows.clear()

    def turn(self, pause: Callable[[], None]) -> None:
        """Read one batch.

        Args:
            pause: called between layers.
        """
        self.forget_cancelled()
        if not self._rows:
            return
        rows = self._next_batch()
        for request, row in rows:
            self._inbox.begun(request.job, len(request.prompts[row].ids))
        self.reading = len({id(request) for request, _ in rows})
        try:
            self._read(rows, pause)
        except NobodyWantsItError:
            log.info("a batch of %d texts was dropped: its requests were cancelled", len(rows))
        except Exception as error:
            self._one_by_one(rows, pause, error)
        finally:
            self.reading = 0

    def _next_batch(self) -> list[_Row]:
        """The oldest text, and those that stand next to it when all are sorted by length."""
        window = list(islice(self._rows, _WINDOW))
        found = batches(
            [_prompt(row) for row in window], _ROWS, self._budget,
            padded=not self._model.lm.packs,
        )  # fmt: skip
        taken = set(next(batch for batch in found if 0 in batch))
        for _ in window:
            self._rows.popleft()
        self._rows.extendleft(
            row for at, row in reversed(list(enumerate(window))) if at not in taken
        )
        return [row for at, row in enumerate(window) if at in taken]

    def _read(self, rows: Sequence[_Row], pause: Callable[[], None]) -> None:
        def looking() -> None:
            pause()
            if not any(request.wanted for request, _ in rows):
                raise NobodyWantsItError

        vectors_BD = self._model.encoder.vectors([_prompt(row) for row in rows], pause=looking)
        for (request, row), vector_D in zip(rows, vectors_BD, strict=True):
            if not request.wanted:
                continue
            if not torch.isfinite(vector_D).all():
                self._fail(request, self._not_finite(row))
                continue
            request.vectors_ND[row] = vector_D
            request.left -= 1
            if not request.left:
                request.job.send(Done(request.vectors_ND.numpy()))

    def _one_by_one(
        self, rows: Sequence[_Row], pause: Callable[[], None], error: Exception
    ) -> None:
        """Whose texts made a batch fail? The others get their vectors."""
        if len(rows) == 1:
            self._fail(rows[0][0], error)
            return
        log.warning("a batch of %d texts failed (%s); read again one by one", len(rows), error)
        for row in rows:
            if row[0].wanted:
                try:
                    self._read([row], pause)
                except NobodyWantsItError:
                    continue
                except Exception as own:
                    self._fail(row[0], own)

    def _fail(self, request: _Request, error: Exception) -> None:
        if request.wanted:
            request.job.send(Failed(error))
        request.failed = True
        self._inbox.dropped(request.job)

    def _not_finite(self, row: int) -> ModelError:
        return ModelError(
            f"the vector of text {row} is not finite in {self._model.dtype}; load the model with "
            "dtype='float32' or 'bfloat16'"
        )


def _prompt(row: _Row) -> Prompt:
    request, number = row
    return request.prompts[number]
