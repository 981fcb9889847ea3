"""Queue of texts to embed: batches of similar length, across requests.

Shapes: N texts of a request, B texts of a batch, D dimensions.
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

_MAX_BATCH = 256  # texts
_WINDOW = 4 * _MAX_BATCH  # texts that are sorted by length to form a batch


class _PendingTexts:
    """Texts of one request, and the vectors computed so far.

    Attributes:
        model: model that embeds them.
        rows: indices of the texts that wait.
        left: number of texts without a vector.
    """

    def __init__(self, queued: QueuedRequest, request: EmbedRequest, model: GritLM) -> None:
        dimension = model.embedding_dimension
        self.queued = queued
        self.model = model
        self.prompts = request.prompts
        with torch.inference_mode(False):  # it may arrive while a batch runs in that mode
            self.vectors_ND = torch.empty(len(request.prompts), dimension)
        self.rows = deque(range(len(request.prompts)))
        self.left = len(request.prompts)
        self.failed = False

    @property
    def active(self) -> bool:
        return not self.failed and not self.queued.cancelled

    def remove(self, rows: set[int]) -> None:
        """Remove texts, which are among the first, from those that wait."""
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
    """Texts of all embedding requests, served in rotation; only the model's thread may use it.

    Args:
        model: the model that embeds, unless a request has another one.
        queue: counts waiting requests.
        budget: most tokens of a batch; a longer text is a batch of its own.

    Attributes:
        running: requests with a text in the batch that runs.
    """

    def __init__(self, model: GritLM, queue: RequestQueue, budget: int) -> None:
        self._model = model
        self._queue = queue
        self._budget = budget
        self._pending: deque[_PendingTexts] = deque()  # with waiting texts, next request first
        self.running = 0

    def __bool__(self) -> bool:
        return bool(self._pending)

    def add(self, queued: QueuedRequest, request: EmbedRequest) -> None:
        """Append the texts of a request; a request without texts ends immediately."""
        model = self._model if request.model is None else request.model
        pending = _PendingTexts(queued, request, model)
        if request.prompts:
            self._pending.append(pending)
        else:
            queued.send(RequestFinished(pending.vectors_ND.numpy()))

    def drop_cancelled(self) -> None:
        """Remove the texts of cancelled and failed requests."""
        for pending in self._pending:
            if not pending.active:
                self._queue.discard(pending.queued)
        self._pending = deque(pending for pending in self._pending if pending.active)

    def fail(self, error: Exception) -> None:
        """Fail every waiting request."""
        for pending in self._pending:
            self._fail(pending, error)
        self._pending.clear()

    def step(self, checkpoint: Callable[[], None]) -> None:
        """Embed one batch.

        Args:
            checkpoint: called between layers.
        """
        self.drop_cancelled()
        if not self._pending:
            return
        rows = self._next_batch()
        for pending, row in rows:
            self._queue.mark_started(pending.queued, len(pending.prompts[row].ids))
        self.running = len({id(pending) for pending, _ in rows})
        try:
            self._embed(rows, checkpoint)
        except RequestCancelledError:
            log.info("a batch of %d texts was dropped: its requests were cancelled", len(rows))
        except Exception as error:
            self._embed_one_by_one(rows, checkpoint, error)
        finally:
            self.running = 0

    def _next_batch(self) -> list[_Row]:
        """Remove and return the first text of the next request and the texts nearest in length."""
        window = self._window()
        candidates = batches(
            [_prompt(row) for row in window],
            _MAX_BATCH,
            self._budget,
            padded=not self._model.lm.packs,
        )
        first = next(batch for batch in candidates if 0 in batch)
        rows = [window[index] for index in sorted(first)]
        self._remove(rows)
        return rows

    def _window(self) -> list[_Row]:
        """Return some texts of every request, the first of each before the second of any.

        The requests are those with the model of the next one. Inputs with images or sound are not
        mixed with texts, which have other passes.
        """
        model = self._pending[0].model
        among = [pending for pending in self._pending if pending.model is model]
        share = -(-_WINDOW // len(among))
        columns = [[(pending, row) for row in islice(pending.rows, share)] for pending in among]
        window = [row for rows in zip_longest(*columns) for row in rows if row is not None]
        has_media = bool(_prompt(window[0]).media)
        return [row for row in window if bool(_prompt(row).media) == has_media]

    def _remove(self, rows: Sequence[_Row]) -> None:
        """Remove texts from those that wait, and rotate to the next request."""
        by_request: dict[_PendingTexts, set[int]] = {}
        for pending, row in rows:
            by_request.setdefault(pending, set()).add(row)
        for pending, numbers in by_request.items():
            pending.remove(numbers)
        self._pending.rotate(-1)
        self._pending = deque(pending for pending in self._pending if pending.rows)

    def _embed(self, rows: Sequence[_Row], checkpoint: Callable[[], None]) -> None:
        def check_cancelled() -> None:
            checkpoint()
            if not any(pending.active for pending, _ in rows):
                raise RequestCancelledError

        prompts = [_prompt(row) for row in rows]
        model = rows[0][0].model  # that of all of them
        vectors_BD = model.encoder.vectors(prompts, pause=check_cancelled)
        for (pending, row), vector_D in zip(rows, vectors_BD, strict=True):
            if not pending.active:
                continue
            if not torch.isfinite(vector_D).all():
                self._fail(pending, self._non_finite(row))
                continue
            pending.vectors_ND[row] = vector_D
            pending.left -= 1
            if not pending.left:
                pending.queued.send(RequestFinished(pending.vectors_ND.numpy()))

    def _embed_one_by_one(
        self, rows: Sequence[_Row], checkpoint: Callable[[], None], error: Exception
    ) -> None:
        """Embed the texts of a failed batch singly, so that only the requests at fault fail."""
        if len(rows) == 1:
            self._fail(rows[0][0], error)
            return
        log.warning("a batch of %d texts failed (%s); embedding them one by one", len(rows), error)
        for row in rows:
            pending = row[0]
            if pending.active:
                try:
                    self._embed([row], checkpoint)
                except RequestCancelledError:
                    continue
                except Exception as row_error:
                    self._fail(pending, row_error)

    def _fail(self, pending: _PendingTexts, error: Exception) -> None:
        if pending.active:
            pending.queued.send(RequestFailed(error))
        pending.failed = True
        self._queue.discard(pending.queued)

    def _non_finite(self, row: int) -> ModelError:
        return ModelError(
            f"the vector of text {row} is not finite in {self._model.dtype}; load the model with "
            "dtype='float32' or 'bfloat16'"
        )


def _prompt(row: _Row) -> Prompt:
    pending, number = row
    return pending.prompts[number]
