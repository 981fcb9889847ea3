"""The store's verbs as the server uses them. Only :meth:`Store.embed`, :meth:`Store.order` and
:meth:`Store.read` use the model, on its thread; all others run in any thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from time import perf_counter
from typing import Any

import orjson

from gritlm.rag.answering import Source, Writing
from gritlm.rag.assemble import Plan
from gritlm.rag.engine import Asked, Query, RagEngine
from gritlm.rag.index import Indexed
from gritlm.rag.indexing import Added
from gritlm.rag.passages import LEFT_OUT, Document, Hit, Value
from gritlm.rag.planning import Mode
from gritlm.rag.retrieval import Search
from gritlm.rag.store.problems import StoreFullError
from gritlm.rag.turns import OnModel, paced
from gritlm.serve.cursors import cursor_of, place_behind
from gritlm.serve.errors import ApiError, no_room
from gritlm.serve.schemas.rag import AnswerBody, Finding
from gritlm.serve.work import Delta, Event, Started

log = logging.getLogger(__name__)

PAGE_BYTES = 4 * 2**20  # of documents in one answer, about
_FIRST_READ = 8  # documents of a page that are read before their size is known


class Store:
    """What may be asked of one engine."""

    def __init__(self, engine: RagEngine) -> None:
        self._engine = engine

    @property
    def read_only(self) -> bool:
        return self._engine.store.read_only

    def require_writing(self) -> None:
        """
        Raises:
            ApiError: where documents can only be read.
        """
        if self.read_only:
            raise ApiError(
                403, "This server's store can only be read; add documents where it was started "
                "without --store-read-only", code="read_only",
            )  # fmt: skip

    def add(
        self, documents: Sequence[Document], added: Added, on_model: OnModel, *, of: int
    ) -> None:
        """Add what is not known yet; what has changed replaces its old passages.

        Args:
            added: takes what was done as it goes.
            on_model: runs what uses the model.
            of: documents of the whole request.

        Raises:
            ApiError: when the disk is full.
        """
        try:
            self._engine.add(list(documents), on_model=on_model, done=added)
        except StoreFullError as error:
            log.error("documents could not be added: %s", error)  # it names a path of ours
            raise no_room(added.documents + added.unchanged, of) from error

    def all(self, *, after: str | None, limit: int) -> dict[str, Any]:
        """Return the documents behind a cursor, in the order of their ids; a page ends early when
        it gets large.

        Args:
            after: ``last_id`` of the page before; None for the first page.
            limit: documents of a page.
        """
        known = sorted(self._engine.index.known())  # ids only, kept until somebody writes
        rest = known if after is None else known[place_behind(known, after) :]
        shown, read = self._page(rest[:limit])
        return {
            "object": "list", "data": shown, "total": len(known), "has_more": len(rest) > read,
            "last_id": cursor_of(rest[read - 1]) if read else None,
        }  # fmt: skip

    def _page(self, ids: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
        """Return documents as far as they fit a page, at least one, and how many ids were read."""
        shown: list[dict[str, Any]] = []
        read, size, step = 0, 0, _FIRST_READ
        while read < len(ids) and (not read or size < PAGE_BYTES):
            for document in self._engine.documents(ids[read : read + step], whole=False):
                shown.append(_listed(document))
                size += len(orjson.dumps(shown[-1]))
            read += min(step, len(ids) - read)
            step = max(1, (PAGE_BYTES - size) * read // max(1, size))  # by the size of those read
        return shown, read

    def delete(self, document_id: str) -> int:
        """Forget a document; how many passages it had."""
        return self._engine.delete(document_id)

    def embed(self, body: Finding, mode: Mode, checkpoint: Callable[[], None]) -> Query:
        """Embed a question."""
        return self._engine.query(
            body.question, mode=mode, search=search_of(body), between=paced(checkpoint)
        )

    def nearest(self, query: Query, body: Finding) -> list[Hit]:
        """The passages nearest to a question, the best first."""
        return self._engine.nearest(query, search_of(body))

    def order(
        self, query: Query, hits: list[Hit], body: Finding, checkpoint: Callable[[], None]
    ) -> list[Hit]:
        """The best of some passages, in the model's own order if that is asked for."""
        return self._engine.ordered(query, hits, search_of(body), between=paced(checkpoint))

    def plan(self, query: Query, hits: list[Hit], body: AnswerBody, writing: Writing) -> Plan:
        """The prompt of an answer."""
        return self._engine.plan(
            query, hits, search_of(body), mode=body.mode, blocks=body.blocks, writing=writing
        )

    def read(
        self, query: Query, plan: Plan, body: AnswerBody, writing: Writing,
        checkpoint: Callable[[], None],
    ) -> Asked:  # fmt: skip
        """Read the prompt of an answer."""
        return self._engine.read(
            query, plan, blocks=body.blocks, writing=writing, between=paced(checkpoint)
        )


class Asking:
    """One question: read on the model's thread, its trace completed as its answer comes in."""

    def __init__(self, read: Callable[[Callable[[], None]], Asked]) -> None:
        self._read = read
        self._asked: Asked | None = None
        self._began = perf_counter()

    def begin(self, between: Callable[[], None]) -> Any:
        self._asked = self._read(between)
        return self._asked.begun

    def note(self, event: Event) -> None:
        """An event of the answer came."""
        trace, now = self._known().trace, perf_counter()
        if isinstance(event, Started):
            self._began = now
            return
        if not isinstance(event, Delta):
            return
        if "first_token" not in trace.milliseconds and (event.tokens or event.finish_reason):
            trace.milliseconds["first_token"] = 1000 * (now - self._known().started)
        trace.tokens_generated += event.tokens
        if event.finish_reason is not None:
            trace.add("decode", now - self._began)

    def sources(self) -> list[dict[str, Any]]:
        return [asdict(source) for source in self._known().sources]

    def trace(self) -> dict[str, Any]:
        return dict(self._known().trace.as_dict())

    def usage(self) -> dict[str, Any]:
        trace = self._known().trace
        read = sum(int(part["tokens"]) for part in trace.parts)
        return {
            "prompt_tokens": read,
            "completion_tokens": trace.tokens_generated,
            "total_tokens": read + trace.tokens_generated,
            "prompt_tokens_details": {"cached_tokens": trace.tokens_reused},
        }

    def _known(self) -> Asked:
        assert self._asked is not None, "nothing was asked yet"
        return self._asked


def search_of(finding: Finding) -> Search:
    """How passages are found. A filter is names and values, never SQL."""
    return Search(
        finding.top_k, finding.filter or None, finding.hybrid, finding.rerank, whole=False
    )


def hit_of(hit: Hit) -> dict[str, Any]:
    """A passage as a search answers it."""
    about = {"rank": hit.rank, "metadata": _metadata(hit.passage.metadata)}
    return asdict(Source.of(hit)) | about


def _listed(document: Indexed) -> dict[str, Any]:
    return {
        "id": document.id, "object": "rag.document", "title": document.title,
        "passages": document.passages, "metadata": _metadata(document.metadata),
    }  # fmt: skip


def _metadata(metadata: Mapping[str, Value]) -> dict[str, Value] | None:
    """Metadata as it is answered; None for one that is too large to be."""
    return None if metadata is LEFT_OUT else dict(metadata)
