"""Cached RAG: documents, their index, their key/value state on disk, and answers from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gritlm import lazy

if TYPE_CHECKING:
    from gritlm.rag.answer import Answer, AnswerStream, Source
    from gritlm.rag.engine import RagEngine
    from gritlm.rag.index.index import IndexedDocument
    from gritlm.rag.ingest.ingest import AddResult, ChunkingOptions
    from gritlm.rag.kvstore.store import KVStore
    from gritlm.rag.options import AnswerOptions
    from gritlm.rag.quote import Quote
    from gritlm.rag.retrieve import Search
    from gritlm.rag.reuse.recompute import Recompute
    from gritlm.rag.types import Document, Hit, Passage, Trace

__all__ = [
    "AddResult",
    "Answer",
    "AnswerOptions",
    "AnswerStream",
    "ChunkingOptions",
    "Document",
    "Hit",
    "IndexedDocument",
    "KVStore",
    "Passage",
    "Quote",
    "RagEngine",
    "Recompute",
    "Search",
    "Source",
    "Trace",
]

_HOMES = {
    "AddResult": "gritlm.rag.ingest.ingest",
    "Answer": "gritlm.rag.answer",
    "AnswerOptions": "gritlm.rag.options",
    "AnswerStream": "gritlm.rag.answer",
    "ChunkingOptions": "gritlm.rag.ingest.ingest",
    "Document": "gritlm.rag.types",
    "Hit": "gritlm.rag.types",
    "IndexedDocument": "gritlm.rag.index.index",
    "KVStore": "gritlm.rag.kvstore.store",
    "Passage": "gritlm.rag.types",
    "Quote": "gritlm.rag.quote",
    "RagEngine": "gritlm.rag.engine",
    "Recompute": "gritlm.rag.reuse.recompute",
    "Search": "gritlm.rag.retrieve",
    "Source": "gritlm.rag.answer",
    "Trace": "gritlm.rag.types",
}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)
