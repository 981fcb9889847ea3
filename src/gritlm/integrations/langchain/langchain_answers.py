"""Answers from cached state as a runnable, for chains of LangChain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Unpack

from langchain_core.documents import Document as LangChainDocument
from langchain_core.runnables import Runnable, RunnableGenerator
from langchain_core.runnables.config import run_in_executor
from langchain_core.runnables.utils import AddableDict

from gritlm.errors import InputError
from gritlm.integrations.stores import PassageStore, hit_of, require_store, source_metadata
from gritlm.rag.answer import Source
from gritlm.rag.options import AnswerOptions, AnswerOverrides, override
from gritlm.rag.types import Hit


def cached_answers(
    store: PassageStore,
    options: AnswerOptions | None = None,
    **overrides: Unpack[AnswerOverrides],
) -> Runnable[Any, Any]:
    """Return a runnable that answers questions from the stored key/value state of passages.

    Its input is a question, or ``{"question": str, "documents": list[Document]}`` with the
    documents of a :class:`GritLMRetriever`, perhaps filtered or reordered. Its output is
    ``{"documents", "answer", "trace"}``: the passages that were read (``metadata["used"]`` marks
    those that the answer comes from), the text, and counts and times. A stream begins with the
    documents, has the answer in pieces, and ends with the trace.

    Args:
        store: a RagEngine, or a RagClient for documents on a server, which searches itself.
        options: settings of search, prompt and sampling; None for the defaults.
        overrides: single fields of the options; ``max_new_tokens`` of their ``sampling``.

    Raises:
        InputError: for an object that is no store, or an unusable setting.
    """
    require_store(store)
    settings = override(options, overrides)

    def pieces(value: Any) -> Iterator[AddableDict]:
        question, hits = _asked(value)
        stream = store.stream(question, settings, hits=hits)
        yield AddableDict(documents=[_document(source) for source in stream.sources])
        for text in stream:
            yield AddableDict(answer=text)
        yield AddableDict(answer="", trace=dict(stream.trace.as_dict()))

    def generate(chunks: Iterator[Any]) -> Iterator[AddableDict]:
        value = None
        for chunk in chunks:
            value = chunk if value is None else value + chunk
        yield from pieces(value)

    async def agenerate(chunks: AsyncIterator[Any]) -> AsyncIterator[AddableDict]:
        value = None
        async for chunk in chunks:
            value = chunk if value is None else value + chunk
        made = pieces(value)
        while (piece := await run_in_executor(None, next, made, None)) is not None:
            yield piece

    return RunnableGenerator(generate, agenerate, name="cached_answers")


def _asked(value: Any) -> tuple[str, list[Hit] | None]:
    """Return the question of an input, and its passages if it has some.

    Raises:
        InputError: for another form of input.
    """
    if isinstance(value, str):
        return value, None
    if not isinstance(value, Mapping) or not isinstance(value.get("question"), str):
        raise InputError(
            f"the input is {type(value).__name__} without a question; expected a text or "
            "{'question': text, 'documents': [...]}"
        )
    documents = value.get("documents")
    if documents is None:
        return value["question"], None
    hits = [
        hit_of(document.page_content, document.metadata, id=document.id, rank=rank)
        for rank, document in enumerate(documents, start=1)
    ]
    return value["question"], hits


def _document(source: Source) -> LangChainDocument:
    return LangChainDocument(
        id=source.id, page_content=source.text, metadata=source_metadata(source)
    )
