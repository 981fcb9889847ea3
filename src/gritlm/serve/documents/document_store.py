"""Operations of the server on one RAG engine.

`DocumentStore.embed`, `order`, `read` and `read_together` use the model and run on its thread. All
others run in any thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from time import perf_counter
from typing import Any

import orjson

from gritlm.lm.gritlm import GritLM
from gritlm.lm.sampling import SamplingParams
from gritlm.rag.answer import PreparedAnswer, Source
from gritlm.rag.cooperative import OnModel, paced
from gritlm.rag.engine import RagEngine
from gritlm.rag.index.index import IndexedDocument
from gritlm.rag.ingest.ingest import AddResult
from gritlm.rag.kvstore.errors import StoreFullError
from gritlm.rag.options import AnswerOptions
from gritlm.rag.plan import AnswerPlan
from gritlm.rag.prefill import PrefilledPrompt
from gritlm.rag.retrieve import Query
from gritlm.rag.together import PlannedAnswer
from gritlm.rag.types import LEFT_OUT, Document, Hit, MediaKind, Trace, Value
from gritlm.serve.documents.cursors import cursor_of, index_behind
from gritlm.serve.engine.requests import (
    EngineEvent,
    JointRun,
    OutputDelta,
    PrefillFinished,
)
from gritlm.serve.errors import ApiError, disk_full
from gritlm.serve.schemas.rag_options import AnswerFields, SearchOptions

log = logging.getLogger(__name__)

SPELLED = ("none", "doc")  # modes whose prompt has the text of the question
PAGE_BYTES = 4 * 2**20  # size of one page of documents, about
_FIRST_READ = 8  # documents of a page to read before their size is known


class DocumentStore:
    """Operations on the documents of one engine."""

    def __init__(self, engine: RagEngine) -> None:
        self._engine = engine

    @property
    def model(self) -> GritLM:
        """The model of the store."""
        return self._engine.model

    @property
    def read_only(self) -> bool:
        return self._engine.store.read_only

    def require_writing(self) -> None:
        """Refuse changes to a store that is read-only.

        Raises:
            ApiError: if the store is read-only.
        """
        if self.read_only:
            raise ApiError(
                403,
                "This server's store can only be read; add documents where it was started "
                "without --store-read-only",
                code="read_only",
            )

    def add(
        self, documents: Sequence[Document], added: AddResult, on_model: OnModel, *, of: int
    ) -> None:
        """Add new documents, and replace the passages of changed documents.

        Args:
            documents: the documents to add.
            added: counts, updated while documents are added.
            on_model: runs a function on the model's thread.
            of: number of documents in the whole request.

        Raises:
            ApiError: if the disk is full.
        """
        try:
            self._engine.add(list(documents), on_model=on_model, done=added)
        except StoreFullError as error:
            log.error("documents could not be added: %s", error)  # it names a path of this machine
            raise disk_full(added.documents + added.unchanged, of) from error

    def all(self, *, after: str | None, limit: int) -> dict[str, Any]:
        """Return the page of documents behind a cursor, in the order of ids.

        Args:
            after: ``last_id`` of the page before; None for the first page.
            limit: the most documents of the page; it has fewer if they exceed `PAGE_BYTES`.
        """
        known = sorted(self._engine.index.known())  # ids only, cached until the next change
        rest = known if after is None else known[index_behind(known, after) :]
        shown, read = self._page(rest[:limit])
        return {
            "object": "list",
            "data": shown,
            "total": len(known),
            "has_more": len(rest) > read,
            "last_id": cursor_of(rest[read - 1]) if read else None,
        }

    def _page(self, ids: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
        """Return the documents that fit a page, at least one, and the number of ids read."""
        shown: list[dict[str, Any]] = []
        read = 0
        size = 0
        step = _FIRST_READ
        while read < len(ids) and (not read or size < PAGE_BYTES):
            for document in self._engine.documents(ids[read : read + step], whole=False):
                shown.append(_listed(document))
                size += len(orjson.dumps(shown[-1]))
            read += min(step, len(ids) - read)
            step = max(1, (PAGE_BYTES - size) * read // max(1, size))  # by the size of those read
        return shown, read

    def count(self) -> int:
        """Return the number of documents."""
        return len(self._engine.index.known())

    def block_bytes(self) -> tuple[int, int]:
        """Return the bytes of the stored key/value state on disk, and in the memory cache."""
        store = self._engine.store
        return store.nbytes, store.memory_nbytes

    def delete(self, document_id: str) -> int:
        """Delete a document and return the number of its passages."""
        return self._engine.delete(document_id)

    def media(self, passage_id: str) -> tuple[MediaKind, bytes] | None:
        """Return the kind and the bytes of a passage's image or sound; None without one."""
        return self._engine.media(passage_id)

    def embed(self, question: str, options: AnswerOptions, checkpoint: Callable[[], None]) -> Query:
        """Embed a question."""
        return self._engine.query(question, options, checkpoint=paced(checkpoint))

    def embed_together(
        self, asked: Sequence[tuple[str, AnswerOptions]], checkpoint: Callable[[], None]
    ) -> list[Query]:
        """Embed several questions in common passes, each with its options."""
        return self._engine.queries(
            [question for question, _ in asked],
            [options for _, options in asked],
            checkpoint=paced(checkpoint),
        )

    def nearest(self, query: Query, options: AnswerOptions) -> list[Hit]:
        """Return the passages nearest to a question, the best first."""
        return self._engine.nearest(query, options)

    def order(
        self,
        query: Query,
        hits: list[Hit],
        options: AnswerOptions,
        checkpoint: Callable[[], None],
    ) -> list[Hit]:
        """Return the best ``top_k`` passages, in the order of the model if reranking is on."""
        return self._engine.ordered(query, hits, options, checkpoint=paced(checkpoint))

    def plan(self, query: Query, hits: list[Hit], options: AnswerOptions) -> AnswerPlan:
        """Return the prompts of an answer."""
        return self._engine.plan(query, hits, options)

    def read(self, planned: PlannedAnswer, checkpoint: Callable[[], None]) -> PreparedAnswer:
        """Prefill the prompt of an answer."""
        return self._engine.read(
            planned.query, planned.plan, planned.options, checkpoint=paced(checkpoint)
        )

    def read_together(
        self, answers: Sequence[RunningAnswer], checkpoint: Callable[[], None]
    ) -> list[PrefilledPrompt]:
        """Prefill the prompts of several answers in common passes, as their `begin` would alone."""
        # Copies of the traces, so that those of an attempt that fails count nothing.
        attempts = [answer.planned.with_new_trace() for answer in answers]
        prepared = self._engine.read_together(attempts, grows=False, checkpoint=paced(checkpoint))
        return [answer.begun(each) for answer, each in zip(answers, prepared, strict=True)]


class RunningAnswer:
    """The answer to a question: its prefill, and a trace that grows while it is generated.

    It does not keep the prefilled prompt: the engine has copied its state into a KV slot, and the
    rows of the other passages are freed.

    Args:
        store: the store with the passages.
        planned: the question and the prompts of the answer.
    """

    def __init__(self, store: DocumentStore, planned: PlannedAnswer) -> None:
        self._store = store
        self._asked: tuple[tuple[Source, ...], Trace, float] | None = None
        self._began = perf_counter()
        self.planned = planned

    @property
    def joint(self) -> JointRun | None:
        """The passes that the answer can share; None for one whose prompt is prefilled alone."""
        rows = self.planned.plan.rows
        if self.planned.plan.fusion != "sequence":
            return None
        fresh = self.planned.options.mode == "none"
        tokens = max(row.tokens if fresh else len(row.ids) for row in rows)
        more = len(rows) > 1  # perhaps a row without passage
        return JointRun(self._store.read_together, self, len(rows) + more, tokens)

    def begin(self, checkpoint: Callable[[], None]) -> PrefilledPrompt:
        """Prefill the prompt alone."""
        return self.begun(self._store.read(self.planned, checkpoint))

    def begun(self, prepared: PreparedAnswer) -> PrefilledPrompt:
        """Record sources and trace of the prefilled answer; return its prompt."""
        self._asked = (prepared.sources, prepared.trace, prepared.started)
        return prepared.prompt

    def note(self, event: EngineEvent) -> None:
        """Record an event of the answer in the trace."""
        _, trace, started = self._known()
        now = perf_counter()
        if isinstance(event, PrefillFinished):
            self._began = now
            return
        if not isinstance(event, OutputDelta):
            return
        if "first_token" not in trace.milliseconds and (event.tokens or event.finish_reason):
            trace.milliseconds["first_token"] = 1000 * (now - started)
        trace.tokens_generated += event.tokens
        if event.finish_reason is not None:
            trace.add("decode", now - self._began)

    def sources(self) -> list[dict[str, Any]]:
        return [asdict(source) for source in self._known()[0]]

    def trace(self) -> dict[str, Any]:
        return dict(self._known()[1].as_dict())

    def usage(self) -> dict[str, Any]:
        _, trace, _ = self._known()
        read = sum(int(part["tokens"]) for part in trace.parts)
        return {
            "prompt_tokens": read,
            "completion_tokens": trace.tokens_generated,
            "total_tokens": read + trace.tokens_generated,
            "prompt_tokens_details": {"cached_tokens": trace.tokens_reused},
        }

    def _known(self) -> tuple[tuple[Source, ...], Trace, float]:
        """Return sources, trace and arrival time of the question."""
        assert self._asked is not None, "nothing was asked yet"
        return self._asked


def search_options(body: SearchOptions) -> AnswerOptions:
    """Return the options of a search without an answer. A filter is names and values, never SQL."""
    return AnswerOptions(
        top_k=body.top_k,
        filter=body.filter or None,
        hybrid=body.hybrid,
        rerank=body.rerank,
        rerank_method=body.rerank_method,
        mode="none",
    )


def answer_options(body: AnswerFields, sampling: SamplingParams) -> AnswerOptions:
    """Return the options of an answer."""
    return replace(
        search_options(body),
        fusion=body.fusion,
        margin=body.margin,
        contrast=body.contrast,
        mode=body.mode,
        blocks=body.blocks,
        sampling=sampling,
    )


def hit_of(hit: Hit) -> dict[str, Any]:
    """Return a passage as an object of the search response."""
    about = {"rank": hit.rank, "metadata": _metadata(hit.passage.shown_metadata)}
    return asdict(Source.of(hit)) | about


def _listed(document: IndexedDocument) -> dict[str, Any]:
    return {
        "id": document.id,
        "object": "rag.document",
        "title": document.title,
        "passages": document.passages,
        "metadata": _metadata(document.metadata),
    }


def _metadata(metadata: Mapping[str, Value]) -> dict[str, Value] | None:
    """Return the metadata of a document; None if it is too large for a response."""
    return None if metadata is LEFT_OUT else dict(metadata)
