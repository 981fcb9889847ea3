"""Documents and answers from them: bodies -> works -> answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import Response

from gritlm.errors import InputError
from gritlm.rag import filters
from gritlm.rag.answering import Writing as RagWriting
from gritlm.rag.engine import RagEngine
from gritlm.rag.passages import Document
from gritlm.serve import uploads
from gritlm.serve.errors import ApiError, invalid
from gritlm.serve.forms import ChatForm
from gritlm.serve.paths import ANSWER, DOCUMENTS, SEARCH
from gritlm.serve.reading import Reader
from gritlm.serve.replies import Part, Tally, json_response
from gritlm.serve.scheduler import Reservation
from gritlm.serve.schemas.rag import AddBody, AnswerBody, Finding, SearchBody
from gritlm.serve.service import Service
from gritlm.serve.spelling import Spelling
from gritlm.serve.store import Asking, Store
from gritlm.serve.work import Event, ToContinue, Writing
from gritlm.serve.writing import answered, stops, wants_usage

_CHARACTERS = 3  # of a token, about


class AnswerForm(ChatForm):
    """Chat chunks that begin with the sources and end with the trace; ``rag.answer`` as a whole."""

    def __init__(self, head: Mapping[str, Any], spelling: Spelling, asking: Asking) -> None:
        super().__init__(head, spelling, logprobs=False, usage=False)
        self._asking = asking

    def note(self, event: Event) -> None:
        self._asking.note(event)

    def whole(self, parts: list[Part], tally: Tally) -> Mapping[str, Any]:
        del tally  # the trace knows more
        (part,) = parts
        head = {name: value for name, value in self._head.items() if name != "system_fingerprint"}
        return {
            **head, "object": "rag.answer", "answer": part.text,
            "finish_reason": part.finish_reason, "sources": self._asking.sources(),
            "trace": self._asking.trace(), "usage": self._asking.usage(),
        }  # fmt: skip

    def opening(self, index: int) -> Mapping[str, Any]:
        return {**super().opening(index), "sources": self._asking.sources()}

    def closing(self, tally: Tally, *, include_usage: bool) -> Mapping[str, Any]:
        del tally, include_usage  # always, and from the trace
        asking = self._asking
        return self.event([]) | {"trace": asking.trace(), "usage": asking.usage()}


class Documents:
    """Documents of one store, as the routes use them."""

    def __init__(self, engine: RagEngine) -> None:
        self._store, self._reader = Store(engine), Reader()

    def close(self) -> None:
        """Nothing more is read of what was sent."""
        self._reader.close()

    async def answer(self, service: Service, body: AnswerBody) -> Response:
        """Find passages and answer from them."""
        _require_filter(body)
        name, usage = service.writer(body.model), wants_usage(body.stream, body.stream_options)
        stop = stops(body.stop)
        reading = RagWriting(body.max_tokens, body.temperature, body.top_p, body.seed, stop)
        writing = Writing(body.max_tokens, body.temperature, body.top_p, seed=body.seed, stop=stop)
        asking = Asking(lambda between: self._store.ask(body, reading, between))
        tokens = min(self._store.prompt_tokens(body), service.prompts.limit)
        with service.scheduler.reserve() as place:
            calls = service.calls(ANSWER)
            calls.submit(place, [ToContinue(asking.begin, tokens, writing)])
        form = AnswerForm(service.head("rag", name, "rag.answer"), service.spelling, asking)
        return await answered(calls, form, works=1, choices=1, stream=body.stream, usage=usage)

    async def search(self, service: Service, body: SearchBody) -> Response:
        """Find passages."""
        _require_filter(body)
        name = service.embedder(body.model)
        found = await service.on_model(
            SEARCH, lambda between: self._store.search(body, between), beside=True
        )
        return json_response({"object": "list", "data": found, "model": name})

    async def add(self, service: Service, body: AddBody) -> Response:
        """Read, cut, embed and keep documents."""
        self._store.require_writing()
        with service.scheduler.reserve() as place:
            found, skipped = await service.off_loop_slowly(uploads.documents, body, self._reader)
            added = await self._added(service, found, place)
        unread = {each["name"] for each in added["skipped"]}
        added["skipped"] = [*skipped, *added["skipped"]]
        ids = [document.id for document in found if document.id not in unread]
        return json_response({"object": "rag.documents.added", "ids": ids, **added})

    async def _added(
        self, service: Service, found: list[Document], place: Reservation
    ) -> dict[str, Any]:
        def run(between: Callable[[], None]) -> dict[str, Any]:
            return self._store.add(found, between)

        size = sum(len(document.text) for document in found) // _CHARACTERS
        return await service.on_model(DOCUMENTS, run, tokens=size, place=place)

    async def listed(self, service: Service, *, after: str | None, limit: int) -> Response:
        """What is stored."""
        found = await service.on_model(
            DOCUMENTS, lambda _: self._store.all(after=after, limit=limit), beside=True
        )
        return json_response(found)

    async def delete(self, service: Service, document_id: str) -> Response:
        """Forget a document and what was kept of it."""
        self._store.require_writing()
        passages = await service.on_model(
            DOCUMENTS, lambda between: self._store.delete(document_id, between)
        )
        if not passages:
            raise ApiError(
                404, f"There is no document '{document_id[:200]}'", code="document_not_found",
                param="document_id",
            )  # fmt: skip
        gone = {"id": document_id, "object": "rag.document.deleted", "deleted": True}
        return json_response({**gone, "passages": passages})


def _require_filter(body: Finding) -> None:
    """
    Raises:
        ApiError: for a filter that cannot be searched by.
    """
    if body.filter is not None:
        try:
            filters.condition(body.filter)
        except InputError as error:
            raise invalid(str(error), param="filter") from None
