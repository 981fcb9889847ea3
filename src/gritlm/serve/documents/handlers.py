"""Handlers of ``/v1/rag``: documents, search and answers of one store."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from time import monotonic
from typing import Any

from starlette.responses import Response

from gritlm.errors import InputError
from gritlm.lm.media.files import MediaRules
from gritlm.printable import excerpt
from gritlm.rag.engine import RagEngine
from gritlm.rag.index import filters
from gritlm.rag.ingest.file_reader import FileReader
from gritlm.rag.media.media_reading import media_reading
from gritlm.rag.options import AnswerOptions
from gritlm.rag.retrieve import Query
from gritlm.rag.together import PlannedAnswer
from gritlm.rag.types import Hit, MediaKind, ReaderName
from gritlm.serve.api.chat_completions import ChatResponseBuilder
from gritlm.serve.api.logprobs import TokenTexts
from gritlm.serve.api.request_group import RequestGroup
from gritlm.serve.api.streaming import (
    EventStream,
    GeneratedText,
    OpenAIDialect,
    TokenUsage,
    event_frames,
    json_response,
)
from gritlm.serve.api.text_generation import respond, sampling_params, wants_usage
from gritlm.serve.documents import uploads
from gritlm.serve.documents.addition import Addition
from gritlm.serve.documents.document_store import (
    SPELLED,
    DocumentStore,
    RunningAnswer,
    answer_options,
    hit_of,
    search_options,
)
from gritlm.serve.engine.requests import EngineEvent, JointRun, ResumeRequest
from gritlm.serve.errors import ApiError, invalid
from gritlm.serve.http.paths import ANSWER, DOCUMENTS, SEARCH
from gritlm.serve.request_trace import retrieval_stage
from gritlm.serve.schemas.rag import (
    AddDocumentsRequest,
    AnswerRequest,
    SearchRequest,
)
from gritlm.serve.service import Service

_MEDIA_TYPES: dict[MediaKind, str] = {"image": "image/png", "sound": "audio/wav"}


class AnswerResponseBuilder(ChatResponseBuilder):
    """Builder of ``rag.answer`` objects, and of chat chunks with the sources and the trace."""

    def __init__(
        self, head: Mapping[str, Any], token_texts: TokenTexts, answer: RunningAnswer
    ) -> None:
        super().__init__(head, token_texts, logprobs=False, usage=False)
        self._answer = answer

    def note(self, event: EngineEvent) -> None:
        self._answer.note(event)

    def whole(self, parts: list[GeneratedText], tally: TokenUsage) -> Mapping[str, Any]:
        del tally  # the trace knows more
        (part,) = parts
        head = {name: value for name, value in self._head.items() if name != "system_fingerprint"}
        return {
            **head,
            "object": "rag.answer",
            "answer": part.text,
            "finish_reason": part.finish_reason,
            "sources": self._answer.sources(),
            "trace": self._answer.trace(),
            "usage": self._answer.usage(),
        }

    def opening(self, index: int) -> Mapping[str, Any]:
        return {**super().opening(index), "sources": self._answer.sources()}

    def closing(self, tally: TokenUsage, *, include_usage: bool) -> Mapping[str, Any]:
        del tally, include_usage  # always, and from the trace
        answer = self._answer
        return self.event([]) | {"trace": answer.trace(), "usage": answer.usage()}


class DocumentApi:
    """Handlers of the routes of one store.

    Args:
        name: name of the store.
        engine: engine of the store.
        reader: reader of uploaded files.
        rules: limits on images and sounds; None for those of the model.

    Raises:
        InputError: for a reader of images of pages, and a model that reads none.
    """

    def __init__(
        self,
        name: str,
        engine: RagEngine,
        reader: ReaderName = "standard",
        rules: MediaRules | None = None,
    ) -> None:
        self._name = name
        self._store = DocumentStore(engine)
        reading = media_reading(engine.model, engine.cutting.seconds, reader)
        if rules is not None:
            reading = replace(reading, rules=rules)
        self._reader = FileReader(reader, reading)

    def close(self) -> None:
        """Stop reading the files of running requests."""
        self._reader.close()

    def model_name(self, service: Service) -> str:
        """Return the first name of the model of the store."""
        return service.name_of(self._store.model)

    async def describe(self, service: Service) -> dict[str, Any]:
        """Return the store as an object of the list of stores."""
        documents = await service.run_in_search_thread(self._store.count)
        disk, memory = await service.run_in_search_thread(self._store.block_bytes)
        about: dict[str, Any] = {"documents": documents, "read_only": self._store.read_only}
        about |= {"disk_bytes": disk, "memory_bytes": memory}
        about["model"] = self.model_name(service)
        return {"id": self._name, "object": "rag.store", **about}

    async def answer(self, service: Service, body: AnswerRequest) -> Response:
        """Find passages and generate an answer from them."""
        name = service.generation_model_name(body.model or self.model_name(service))
        served = service.served(name)
        usage = wants_usage(body.stream, body.stream_options)
        sampling = sampling_params(body, body.max_tokens, vocabulary=served.prompts.vocabulary)
        options = answer_options(body, sampling)
        group, answer = await self.begin(service, ANSWER, body.question, options)
        builder = AnswerResponseBuilder(
            service.response_head("rag", name, "rag.answer"), served.token_texts, answer
        )
        return await respond(
            group, builder, sequences=1, choices=1, stream=body.stream, usage=usage
        )

    async def begin(
        self,
        service: Service,
        endpoint: str,
        question: str,
        options: AnswerOptions,
        *,
        search: str | None = None,
    ) -> tuple[RequestGroup, RunningAnswer]:
        """Find passages for a question, and submit the answer from them.

        Args:
            service: the service with the model.
            endpoint: path of the route, for the metrics.
            question: the question in the prompt. A mode that reuses the key/value state of the
                search has the text of the search there.
            options: settings of the answer.
            search: the text to search passages for; None for the question.

        Returns:
            The submitted request, and the answer that it generates.

        Raises:
            ApiError: for a filter that the index cannot apply, or a question that is too long.
        """
        _require_filter(options.filter)
        served = service.served(self.model_name(service))
        service.metrics.store_requests.labels(endpoint, self._name).inc()
        group = service.new_group(endpoint, first=False)
        with service.scheduler.reserve() as reservation:
            search = question if search is None else search
            if question != search:
                await service.run_in_worker_thread(served.prompts.question, question)
            tokens = await service.run_in_worker_thread(served.prompts.question, search)
            query, hits = await self._find_passages(service, endpoint, search, options, tokens)
            if options.mode in SPELLED:
                query = replace(query, question=question)
            plan = await service.run_in_search_thread(self._store.plan, query, hits, options)
            answer = RunningAnswer(self._store, PlannedAnswer(query, plan, options))
            request = ResumeRequest(
                answer.begin,
                min(plan.tokens, served.prompts.limit),
                options.sampling,
                plan.sequences,
                served.model,
                answer.joint,
            )
            group.submit(reservation, [request])
        return group, answer

    async def search(self, service: Service, body: SearchRequest) -> Response:
        """Find passages."""
        _require_filter(body.filter)
        name = service.embedding_model_name(body.model or self.model_name(service))
        prompts = service.served(name).prompts
        started = monotonic()
        service.metrics.store_requests.labels(SEARCH, self._name).inc()
        with service.scheduler.reserve():
            tokens = await service.run_in_worker_thread(prompts.question, body.question)
            _, hits = await self._find_passages(
                service, SEARCH, body.question, search_options(body), tokens
            )
        service.metrics.request_seconds.labels(SEARCH).observe(monotonic() - started)
        return json_response({"object": "list", "data": list(map(hit_of, hits)), "model": name})

    async def _find_passages(
        self, service: Service, endpoint: str, question: str, options: AnswerOptions, tokens: int
    ) -> tuple[Query, list[Hit]]:
        """Embed a question and find passages; the model is free during the search."""
        with retrieval_stage(self._name) as attributes:
            query, hits = await self._search(service, endpoint, question, options, tokens)
            attributes["gritlm.passages"] = len(hits)
        return query, hits

    async def _search(
        self, service: Service, endpoint: str, question: str, options: AnswerOptions, tokens: int
    ) -> tuple[Query, list[Hit]]:
        query = await service.run_short_job(
            endpoint,
            lambda checkpoint: self._store.embed(question, options, checkpoint),
            joint=JointRun(self._store.embed_together, (question, options), 1, tokens),
        )
        hits = await service.run_in_search_thread(self._store.nearest, query, options)
        if not options.rerank:
            return query, hits[: options.top_k]
        ordered = await service.run_short_job(
            endpoint,
            lambda checkpoint: self._store.order(query, hits, options, checkpoint),
            first=False,
        )
        return query, ordered

    async def add(self, service: Service, body: AddDocumentsRequest) -> Response:
        """Read, split, embed and store documents; the response is an error if none was added."""
        self._store.require_writing()
        service.metrics.store_requests.labels(DOCUMENTS, self._name).inc()
        with ExitStack() as running:
            running.enter_context(service.scheduler.reserve())
            found, skipped = await service.run_in_upload_thread(
                uploads.documents, body, self._reader
            )
            addition = Addition(self._store, self._name, found, skipped)
            addition.require_few_characters(service.scheduler.max_request_tokens)
            if not body.stream:
                return await addition.respond(service)
            events = addition.events(service)
            return EventStream(event_frames(events, OpenAIDialect()), running.pop_all())

    async def list_documents(self, service: Service, *, after: str | None, limit: int) -> Response:
        """List the stored documents."""
        with service.scheduler.reserve():
            found = await service.run_in_search_thread(self._store.all, after=after, limit=limit)
        return json_response(found)

    async def media(self, service: Service, passage_id: str) -> Response:
        """Return the file of a passage that is an image or a sound."""
        with service.scheduler.reserve():
            found = await service.run_in_search_thread(self._store.media, passage_id)
        if found is None:
            raise ApiError(
                404,
                f"There is no image or sound of a passage '{excerpt(passage_id)}'",
                code="passage_not_found",
                param="passage_id",
            )
        kind, data = found
        headers = {"Cache-Control": "no-store"}  # a browser cannot show it after its key is revoked
        return Response(data, media_type=_MEDIA_TYPES[kind], headers=headers)

    async def delete(self, service: Service, document_id: str) -> Response:
        """Delete a document, its passages and their key/value state."""
        self._store.require_writing()
        with service.scheduler.reserve():
            passages = await service.run_in_store_thread(self._store.delete, document_id)
        if not passages:
            raise ApiError(
                404,
                f"There is no document '{excerpt(document_id)}'",
                code="document_not_found",
                param="document_id",
            )
        gone = {"id": document_id, "object": "rag.document.deleted", "deleted": True}
        return json_response({**gone, "passages": passages})


def _require_filter(filter: str | Mapping[str, Any] | None) -> None:
    """Refuse a filter that the index cannot apply.

    Raises:
        ApiError: if the filter is not valid.
    """
    if filter:
        try:
            filters.condition(filter)
        except InputError as error:
            raise invalid(str(error), param="filter") from None
