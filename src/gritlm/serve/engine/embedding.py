"""Texts that wait to be embedded: batches of like-sized ones, across requests.

Shapes: N texts of a request, B of a batch, D dimensions.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice, zip_longest

import torch

from gritlm.errors import ModelError
from gritlm.lm.encoder import batches
from gritlm.lm.gritlm import GritLM
from gritlm.lm.tokens import Prompt
from gritlm.serve.engine.errors import RequestCancelledError
from gritlm.serve.engine.queue import QueuedRequest, RequestQueue
from gritlm.serve.engine.requests import EmbedRequest, RequestFailed, RequestFinished

log = logging.getLogger(__name__)

_ROWS = 256  # most texts of a batch
_WINDOW = 4 * _ROWS  # texts among which those of like size are looked for


class _PendingTexts:
    """Texts of one request, and the vectors that are there.

    Attributes:
        rows: numbers of the texts that wait.
        left: texts that have no vector yet.
    """

    def __init__(self, job: QueuedRequest, work: EmbedRequest, dimension: int) -> None:
        self.job = job
        self.prompts = work.prompts
        with torch.inference_mode(False):  # it may arrive while a batch is read in that mode
            self.vectors_ND = torch.empty(len(work.prompts), dimension)
        self.rows = deque(range(len(work.prompts)))
        self.left = len(work.prompts)
        self.failed = False

    @property
    def wanted(self) -> bool:
        return not self.failed and not self.job.cancelled

    def leave(self, rows: set[int]) -> None:
        """These wait no more; they are among the first."""
        kept: list[int] = []
        while rows:
            row = self.rows.popleft()
            if row in rows:
                rows.remove(row)
            else:
                kept.append(row)
        self.rows.extendleft(reversed(kept))


_Row = tuple[_PendingTexts, int]


class EmbeddingQueue:
    """Requests take turns; only the model's thread may touch it.

    Args:
        budget: tokens of a batch; a longer text is alone in its batch.
    """

    def __init__(self, model: GritLM, inbox: RequestQueue, budget: int) -> None:
        self._model = model
        self._inbox = inbox
        self._budget = budget
        self._requests: deque[_PendingTexts] = deque()  # with rows that wait, in the order of turns
        self.reading = 0  # requests with a text in the batch that is read

    def __bool__(self) -> bool:
        return bool(self._requests)

    def add(self, job: QueuedRequest, work: EmbedRequest) -> None:
        request = _PendingTexts(job, work, self._model.embedding_dimension)
        if work.prompts:
            self._requests.append(request)
        else:
            job.send(RequestFinished(request.vectors_ND.numpy()))

    def forget_cancelled(self) -> None:
        """What nobody wants any more is not read."""
        for request in self._requests:
            if not request.wanted:
                self._inbox.dropped(request.job)
        self._requests = deque(request for request in self._requests if request.wanted)

    def fail(self, error: Exception) -> None:
        """Nothing that waits is read."""
        for request in self._requests:
            self._fail(request, error)
        self._requests.clear()

    def turn(self, pause: Callable[[], None]) -> None:
        """Read one batch.

        Args:
            pause: called between layers.
        """
        self.forget_cancelled()
        if not self._requests:
            return
        rows = self._next_batch()
        for request, row in rows:
            self._inbox.begun(request.job, len(request.prompts[row].ids))
        self.reading = len({id(request) for request, _ in rows})
        try:
            self._read(rows, pause)
        except RequestCancelledError:
            log.info("a batch of %d texts was dropped: its requests were cancelled", len(rows))
        except Exception as error:
            self._one_by_one(rows, pause, error)
        finally:
            self.reading = 0

    def _next_batch(self) -> list[_Row]:
        """The first text of whose turn it is, and those that stand next to it when texts of all
        requests are sorted by length."""
        window = self._window()
        found = batches(
            [_prompt(row) for row in window],
            _ROWS,
            self._budget,
            padded=not self._model.lm.packs,
        )
        taken = [window[at] for at in sorted(next(batch for batch in found if 0 in batch))]
        self._take(taken)
        return taken

    def _window(self) -> list[_Row]:
        """Some texts of every request, the first of each before the second of any."""
        share = -(-_WINDOW // len(self._requests))
        each = [
            [(request, row) for row in islice(request.rows, share)] for request in self._requests
        ]
        return [row for rows in zip_longest(*each) for row in rows if row is not None]

    def _take(self, taken: Sequence[_Row]) -> None:
        """They wait no more; whose turn it was is the last one now."""
        of: dict[_PendingTexts, set[int]] = {}
        for request, row in taken:
            of.setdefault(request, set()).add(row)
        for request, rows in of.items():
            request.leave(rows)
        self._requests.rotate(-1)
        self._requests = deque(request for request in self._requests if request.rows)

    def _read(self, rows: Sequence[_Row], pause: Callable[[], None]) -> None:
        def looking() -> None:
            pause()
            if not any(request.wanted for request, _ in rows):
                raise RequestCancelledError

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
                request.job.send(RequestFinished(request.vectors_ND.numpy()))

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
                except RequestCancelledError:
                    continue
                except Exception as own:
                    self._fail(row[0], own)

    def _fail(self, request: _PendingTexts, error: Exception) -> None:
        if request.wanted:
            request.job.send(RequestFailed(error))
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
