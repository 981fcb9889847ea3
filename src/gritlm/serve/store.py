"""The store's verbs as the server uses them. All run on the model's thread, one at a time."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict
from time import perf_counter
from typing import Any

from gritlm.rag.answering import Source, Writing
from gritlm.rag.engine import Asked, RagEngine
from gritlm.rag.indexing import Added
from gritlm.rag.passages import Document, Hit
from gritlm.rag.retrieval import Search
from gritlm.rag.store.problems import StoreFullError
from gritlm.serve.errors import ApiError, no_room
from gritlm.serve.schemas.rag import AnswerBody, Finding
from gritlm.serve.work import Delta, Event, Started

log = logging.getLogger(__name__)

_PROMPT = 64  # tokens of a question with all that is put around it, about


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

    def add(self, documents: Sequence[Document], between: Callable[[], None]) -> dict[str, Any]:
        """Add what is not known yet; what has changed replaces its old passages.

        Raises:
            ApiError: when the disk is full.
        """
        added = Added()
        try:
            self._engine.add(list(documents), between=between, done=added)
        except StoreFullError as error:
            log.error("documents could not be added: %s", error)  # it names a path of ours
            raise no_room(added.documents + added.unchanged, len(documents)) from error
        return {
            "documents": added.documents, "passages": added.passages, "replaced": added.replaced,
            "unchanged": added.unchanged, "seconds": added.seconds,
            "skipped": [{"name": each.path, "reason": each.reason} for each in added.skipped],
        }  # fmt: skip

    def all(self, *, after: str | None, limit: int) -> dict[str, Any]:
        """The documents that come after an id, in the order of their ids."""
        known = sorted(self._engine.index.known())  # ids only, kept until somebody writes
        rest = known if after is None else known[bisect_right(known, after) :]
        shown = [
            {
                "id": each.id, "object": "rag.document", "title": each.title,
                "passages": each.passages, "metadata": dict(each.metadata),
            }
            for each in self._engine.documents(rest[:limit])
        ]  # fmt: skip
        return {
            "object": "list", "data": shown, "total": len(known), "has_more": len(rest) > limit,
            "last_id": shown[-1]["id"] if shown else None,
        }  # fmt: skip

    def delete(self, document_id: str, between: Callable[[], None]) -> int:
        """Forget a document; how many passages it had."""
        return self._engine.delete(document_id, between=between)

    def search(self, finding: Finding, between: Callable[[], None]) -> list[dict[str, Any]]:
        """Passages, the best first."""
        hits = self._engine.find(finding.question, search_of(finding), between=between)
        return [_hit(hit) for hit in hits]

    def ask(self, body: AnswerBody, writing: Writing, between: Callable[[], None]) -> Asked:
        """Find passages and read the prompt."""
        return self._engine.ask(
            body.question, mode=body.mode, blocks=body.blocks, search=search_of(body),
            writing=writing, between=between,
        )  # fmt: skip

    def prompt_tokens(self, body: AnswerBody) -> int:
        """Tokens that a prompt has, about."""
        return body.top_k * self._engine.cutting.max_tokens + _PROMPT + len(body.question) // 3


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
    return Search(finding.top_k, finding.filter, finding.hybrid, finding.rerank)


def _hit(hit: Hit) -> dict[str, Any]:
    about = {"rank": hit.rank, "metadata": dict(hit.passage.metadata)}
    return asdict(Source.of(hit)) | about
