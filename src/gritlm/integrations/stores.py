"""Documents behind an adapter: an engine in process or on a server, and passages as dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Unpack

from gritlm.errors import InputError
from gritlm.rag.answer import AnswerStream, Source
from gritlm.rag.options import AnswerOptions, AnswerOverrides
from gritlm.rag.retrieve import Search
from gritlm.rag.types import Hit, Passage, with_page

UNSCORED = 1.0  # cosine of a document without one: it is read, as the best passage is
_OWN = ("document_id", "title", "score", "start", "end")
_PLACE = frozenset(("document_id", "start", "end"))  # documents from elsewhere lack one of them


class PassageStore(Protocol):
    """Documents that can be searched and answered from.

    Both :class:`gritlm.rag.RagEngine` and :class:`gritlm.integrations.RagClient` are ones.
    """

    def find(self, question: str, search: Search) -> list[Hit]:
        """Return the passages for a question, the best first."""
        ...

    def stream(
        self,
        question: str,
        options: AnswerOptions | None = None,
        *,
        hits: Sequence[Hit] | None = None,
        **overrides: Unpack[AnswerOverrides],
    ) -> AnswerStream:
        """Return an iterator over the pieces of an answer, whose sources are known."""
        ...


def require_store(store: object) -> None:
    """Raise an error unless an object has the methods of a store of documents.

    Raises:
        InputError: for another object, such as the path of a folder.
    """
    if not (callable(getattr(store, "find", None)) and callable(getattr(store, "stream", None))):
        raise InputError(
            f"store is {type(store).__name__}; expected a RagEngine, as RagEngine.open(folder) "
            "returns it, or RagClient(base_url)"
        )


def hit_metadata(hit: Hit) -> dict[str, Any]:
    """Return the metadata of a hit for a framework: that of its document, and its place in it."""
    passage = hit.passage
    page = {} if passage.page is None else {"page": passage.page}
    return dict(passage.shown_metadata) | {
        "document_id": passage.document_id,
        "title": passage.title,
        "score": hit.score,
        "start": passage.start,
        "end": passage.end,
        **page,
    }


def source_metadata(source: Source) -> dict[str, Any]:
    """Return the metadata of a source for a framework: its place, and whether it was used."""
    return {
        "document_id": source.document_id,
        "title": source.title,
        "score": source.score,
        "start": source.start,
        "end": source.end,
        "page": source.page,
        "used": source.used,
        "likelihood": source.likelihood,
    }


def hit_of(text: str, metadata: Mapping[str, Any], *, id: str | None, rank: int) -> Hit:
    """Return the hit in a document of a framework.

    The key/value state of a passage is found by its title and text. A document from elsewhere is
    therefore read once, and its state is kept too.

    Args:
        text: text of the document.
        metadata: metadata of the document, as :func:`hit_metadata` returns it or from elsewhere.
        id: id of the document; None for one made of its rank.
        rank: rank of the document, from 1.
    """
    name = id or f"document-{rank}"
    title = metadata.get("title")
    others = {key: value for key, value in metadata.items() if key not in _OWN}
    page = others.get("page") if metadata.keys() >= _PLACE else None
    passage = Passage(
        id=name,
        document_id=str(metadata.get("document_id", name)),
        title=title if isinstance(title, str) else "",
        text=text,
        number=0,
        start=int(_number(metadata.get("start"), 0)),
        end=int(_number(metadata.get("end"), len(text))),
        metadata=with_page(others, page if isinstance(page, int) else None),
    )
    return Hit(passage, _number(metadata.get("score"), UNSCORED), rank)


def _number(value: object, usual: float) -> float:
    """Return a number of a document from elsewhere; ``usual`` for any other value."""
    return float(value) if isinstance(value, int | float) else usual
