"""Addition of the documents of one request, in portions, with events of its progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from time import monotonic
from typing import Any

from anyio import CancelScope
from starlette.responses import Response

from gritlm.rag.cooperative import OnModel
from gritlm.rag.ingest.ingest import AddResult
from gritlm.rag.ingest.skips import NAMED, Skips
from gritlm.rag.types import Document
from gritlm.serve.api.streaming import json_response
from gritlm.serve.documents.document_store import DocumentStore
from gritlm.serve.engine.model_thread import ModelThread
from gritlm.serve.errors import invalid, none_added
from gritlm.serve.http.paths import DOCUMENTS
from gritlm.serve.service import Service

_CHARACTERS = 4  # per token of a document, about
_MOST_MEDIA = 500  # images and windows of sound that a request may add
_IMAGE_CHARACTERS = 2**12  # that an image or a sound counts as
_PORTION = 2**16  # characters that are added before other requests take their turn
_EVERY_S = 0.2  # seconds between two events of the progress
_UNFINISHED = 0.99  # the largest share in an event: the last documents must be written too


class Addition:
    """Addition of documents to a store.

    Args:
        store: the store.
        name: name of the store, for the metrics.
        found: the documents.
        skipped: documents of the request that cannot be read.
    """

    def __init__(
        self, store: DocumentStore, name: str, found: Sequence[Document], skipped: Skips
    ) -> None:
        self._store = store
        self._name = name
        self._found = found
        self._skipped = skipped
        self._added = AddResult()
        self._ends = [0, *accumulate(map(_size, found))]  # size of the first documents, by count
        self._finished = 0  # documents of the portions that are complete
        self._before = AddResult()  # counts when the current portion began
        self._share = 0.0

    def require_few_characters(self, tokens: int) -> None:
        """Refuse documents that are too long for one request.

        Args:
            tokens: most tokens of a request.

        Raises:
            ApiError: if the documents have more characters than a request may have.
        """
        size = sum(len(document.text) for document in self._found)
        most = tokens * _CHARACTERS
        if size > most:
            raise invalid(
                f"the documents have {size:,} characters, the server takes at most {most:,} "
                f"({_CHARACTERS} for each of --max-request-tokens={tokens:,}) a request; send them "
                "in several requests, or cut a long one into several documents",
                param="documents",
                code="max_tokens_per_request",
            )
        media = sum(len(document.media) for document in self._found)
        if media > _MOST_MEDIA:
            raise invalid(
                f"the files have {media:,} pages, images and windows of sound, the server takes at "
                f"most {_MOST_MEDIA} a request; send them in several requests",
                param="files",
                code="max_tokens_per_request",
            )

    async def respond(self, service: Service) -> Response:
        """Add the documents; the response is an error if none was added."""
        await self._add(service)
        answer = self._answer()
        if self._went_in:
            return json_response(answer)
        return none_added(answer["skipped"], answer["skipped_count"]).response(answer)

    async def events(self, service: Service) -> AsyncGenerator[Mapping[str, Any]]:
        """Add the documents and yield the progress, at last the response.

        Raises:
            ApiError: at the end, if none was added.
        """
        task = asyncio.create_task(self._add(service))
        try:
            while not task.done():
                yield self._progress()
                await asyncio.wait({task}, timeout=_EVERY_S)
            await task
        finally:
            task.cancel()
            with CancelScope(shield=True):  # a client that left cancels every wait, also this one
                await asyncio.gather(task, return_exceptions=True)
        answer = self._answer()
        if not self._went_in:
            raise none_added(answer["skipped"], answer["skipped_count"])
        yield answer

    async def _add(self, service: Service) -> None:
        """Add documents in portions, so that other requests can add documents in between.

        When it is cancelled, it ends after its thread has ended.
        """
        started = monotonic()
        running: asyncio.Task[None] | None = None
        try:
            with ModelThread(service.scheduler) as on_model:
                for some in _portions(self._found):
                    self._before = replace(self._added)
                    running = asyncio.create_task(
                        service.run_in_store_thread(self._add_portion, service, some, on_model)
                    )
                    await asyncio.wait({running})  # unlike await, it does not cancel the task
                    await running
                    self._finished += len(some)
        finally:
            if running is not None:
                await asyncio.gather(running, return_exceptions=True)
        service.metrics.request_seconds.labels(DOCUMENTS).observe(monotonic() - started)

    def _add_portion(self, service: Service, some: Sequence[Document], on_model: OnModel) -> None:
        """Add some documents, and count those that are stored, however the addition ends."""
        before = self._added.documents
        try:
            self._store.add(some, self._added, on_model, of=len(self._found))
        finally:
            stored = self._added.documents - before
            service.metrics.store_documents.labels(self._name).inc(stored)

    def _progress(self) -> dict[str, Any]:
        """Return the event of the progress so far; the share never shrinks."""
        now = replace(self._added)
        begin = self._ends[self._finished]
        cut = now.cut - self._before.cut
        read = self._finished + _documents_read(now) - _documents_read(self._before)
        embedded = (now.embedded - self._before.embedded) / cut if cut else 0.0
        total = self._ends[-1]
        size = begin + embedded * (self._ends[min(read, len(self._found))] - begin)
        self._share = max(self._share, min(_UNFINISHED, size / total if total else 0.0))
        return {
            "object": "rag.documents.progress",
            "passages": now.embedded,
            "share": self._share,
        }

    @property
    def _went_in(self) -> bool:
        return bool(self._added.documents or self._added.unchanged)

    def _answer(self) -> dict[str, Any]:
        added = self._added
        unread = [{"name": each.path, "reason": each.reason} for each in added.skipped]
        named = [{"name": each.path, "reason": each.reason} for each in self._skipped]
        gone = {each["name"] for each in unread}
        return {
            "object": "rag.documents.added",
            "ids": [document.id for document in self._found if document.id not in gone],
            "documents": added.documents,
            "passages": added.passages,
            "replaced": added.replaced,
            "unchanged": added.unchanged,
            "seconds": added.seconds,
            "skipped": [*named, *unread][:NAMED],
            "skipped_count": self._skipped.count + added.skipped_count,
        }


def _size(document: Document) -> int:
    return len(document.text) + _IMAGE_CHARACTERS * len(document.media)


def _documents_read(counts: AddResult) -> int:
    """Return the number of documents that are cut, unchanged or skipped so far."""
    return counts.cut_documents + counts.unchanged + counts.skipped_count


def _portions(found: Sequence[Document]) -> Iterator[Sequence[Document]]:
    """Yield runs of documents that are added together."""
    start = size = 0
    for end, document in enumerate(found, start=1):
        size += _size(document)
        if size >= _PORTION or end == len(found):
            yield found[start:end]
            start = end
            size = 0
