"""Chats that are answered from documents: the last message, with the messages before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import Response

from gritlm.lm.sampling import SamplingParams
from gritlm.lm.tools.call_format import HERMES, CallFormat
from gritlm.lm.tools.definitions import Tool, ToolChoice
from gritlm.lm.tools.prompt import plain_turns, tools_text
from gritlm.printable import excerpt
from gritlm.serve.access import SEARCH, require_right
from gritlm.serve.api.chat_completions import (
    ChatResponseBuilder,
    CreateChat,
    create_chat,
    max_tokens_of,
)
from gritlm.serve.api.logprobs import TokenTexts
from gritlm.serve.api.media import require_texts
from gritlm.serve.api.streaming import Dialect, GeneratedText, TokenUsage
from gritlm.serve.api.structured_output import compile_grammar
from gritlm.serve.api.text_generation import respond, sampling_params, wants_usage
from gritlm.serve.api.tool_calls import tools_of, turns_of
from gritlm.serve.documents.document_store import SPELLED, RunningAnswer, answer_options
from gritlm.serve.engine.requests import EngineEvent, OutputDelta
from gritlm.serve.errors import ApiError, invalid, no_model
from gritlm.serve.schemas.chat_completions import ChatCompletionRequest, RequestMessage
from gritlm.serve.schemas.rag_options import AnswerFields
from gritlm.serve.served_models import ServedModel
from gritlm.serve.service import Service

if TYPE_CHECKING:
    from gritlm.serve.documents.handlers import DocumentApi

_MOST_HISTORY = 1000  # characters of the messages before the last one, in the search
_DEFAULTS = SamplingParams()


def chat_creator(service: Service, apis: Mapping[str, DocumentApi]) -> CreateChat:
    """Return the function behind all routes of chats, with and without documents.

    Args:
        service: the service with the model.
        apis: handlers over each store, by its name.
    """

    async def create(
        endpoint: str, body: ChatCompletionRequest, dialect: Dialect | None = None
    ) -> Response:
        if body.rag is None and service.rag_store(body.model) is None:
            return await create_chat(service, endpoint, body, dialect)
        require_right(SEARCH)
        return await _answer(apis[_store_of(service, body)], service, endpoint, body, dialect)

    return create


def _store_of(service: Service, body: ChatCompletionRequest) -> str:
    """Return the name of the store of a chat, from its model name or the field ``rag``.

    Raises:
        ApiError: for two different stores, or one that the key may not use.
    """
    _, by_model = service.rag_store(body.model) or (None, None)
    by_field = None if body.rag is None else body.rag.store
    if by_model is None:
        return service.choose_store(by_field, body.model)
    if by_model not in service.stores.visible:
        raise no_model(str(body.model)[:200], service.chat_names)
    if by_field not in (None, by_model):
        raise invalid(
            f"'rag.store' is '{excerpt(str(by_field), 64)}' and the model name has the store "
            f"'{by_model}'; name one store",
            param="rag.store",
        )
    return service.choose_store(by_model, body.model)


async def _answer(
    documents: DocumentApi,
    service: Service,
    endpoint: str,
    body: ChatCompletionRequest,
    dialect: Dialect | None,
) -> Response:
    name = service.rag_model_name(body.model or documents.model_name(service))
    served = service.served(name)
    _require_supported(body)
    require_texts(body.messages, "an answer from documents")
    usage = wants_usage(body.stream, body.stream_options)
    tools, calls = tools_of(body)
    options = answer_options(
        body.rag or AnswerFields.model_validate({}), await _sampling(service, served, body, calls)
    )
    if tools and options.mode not in SPELLED:
        raise invalid(
            f"'tools' and rag.mode='{options.mode}': the prompt of this mode has the text of the "
            f"search alone; use the mode '{SPELLED[-1]}'",
            param="tools",
        )
    texts = conversation_of(body.messages)
    query = await _fitting_search_text(service, served, texts)
    question = _question(body.messages, tools)
    group, answer = await documents.begin(service, endpoint, question, options, search=query)
    builder = RagChatResponseBuilder(
        service.response_head("chatcmpl", name, RagChatResponseBuilder.whole_object),
        served.token_texts,
        query,
        answer,
        usage=usage,
        call_format=None if calls is None else HERMES,
    )
    return await respond(
        group, builder, sequences=1, choices=1, stream=body.stream, usage=usage, dialect=dialect
    )


def conversation_of(messages: Sequence[RequestMessage]) -> list[str]:
    """Return the texts of user and assistant up to the last question, the oldest first.

    Raises:
        ApiError: if the conversation does not end with a question of the user, or with the results
            of calls that followed it.
    """
    last = messages[-1]
    at = _question_index(messages)
    if at is None or not messages[at].text.strip():
        raise invalid(
            f"the last message has role '{last.role}' and {len(last.text)} characters; an answer "
            "from documents needs a question of the user there",
            param="messages",
        )
    asked = messages[: at + 1]
    return [each.text for each in asked if each.role in ("user", "assistant") and each.text]


def _question_index(messages: Sequence[RequestMessage]) -> int | None:
    """Return the index of the last question, if calls and their results alone follow it."""
    if messages[-1].role not in ("user", "tool"):
        return None
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message.role == "user":
            return index
        if message.role != "tool" and not message.tool_calls:
            return None
    return None


def _question(messages: Sequence[RequestMessage], tools: Sequence[Tool]) -> str:
    """Return the text after the passages: instructions, tools, question, calls and their results.

    Raises:
        ApiError: for the result of a call that is not in the conversation.
    """
    asked = plain_turns(turns_of(messages)[_question_index(messages) :], [])
    listed = [tools_text(tools)] if tools else []
    texts = [*_instructions(messages), *listed, *(turn["content"] for turn in asked)]
    return "\n\n".join(texts)


def _instructions(messages: Sequence[RequestMessage]) -> list[str]:
    """Return the texts of system messages, which come before the question in the prompt."""
    return [each.text for each in messages if each.role in ("system", "developer") and each.text]


def search_text(texts: Sequence[str]) -> str:
    """Return the text to search passages for: the last message, after the end of the conversation.

    A question such as "Why?" is understood by the messages before it. They are joined, as many of
    the newest as fit ``_MOST_HISTORY`` characters.

    Args:
        texts: messages of user and assistant, the oldest first.
    """
    joined = [texts[-1]]
    size = 0
    for text in reversed(texts[:-1]):
        size += len(text)
        if size > _MOST_HISTORY:
            break
        joined.insert(0, text)
    return "\n".join(joined)


async def _fitting_search_text(service: Service, served: ServedModel, texts: Sequence[str]) -> str:
    """Return the text to search passages for; the last message alone if the model takes no more."""
    joined = search_text(texts)
    with service.scheduler.reserve():
        try:
            await service.run_in_worker_thread(served.prompts.question, joined)
        except ApiError:
            return texts[-1]
    return joined


class RagChatResponseBuilder(ChatResponseBuilder):
    """Builder of chats with their sources: as annotations of the message, and in field ``rag``.

    Args:
        head: fields that every response and every event begins with: id, model, time.
        token_texts: texts of the model's tokens.
        query: text that passages were searched for.
        answer: the answer that is generated.
        usage: whether each event of a stream has the field ``usage``, null until the last one.
        call_format: format of the calls that the answer may have; None for no calls.
    """

    def __init__(
        self,
        head: Mapping[str, Any],
        token_texts: TokenTexts,
        query: str,
        answer: RunningAnswer,
        *,
        usage: bool,
        call_format: CallFormat | None = None,
    ) -> None:
        super().__init__(head, token_texts, call_format=call_format, logprobs=False, usage=usage)
        self._query = query
        self._answer = answer
        self._length = 0

    def note(self, event: EngineEvent) -> None:
        """Record the event in the trace of the answer."""
        self._answer.note(event)

    def whole(self, parts: list[GeneratedText], tally: TokenUsage) -> Mapping[str, Any]:
        """Return the response that is sent without a stream."""
        response = super().whole(parts, tally)
        (choice,) = response["choices"]
        self._length = len(choice["message"]["content"] or "")
        choice["message"]["annotations"] = self._annotations()
        return {**response, "usage": self._answer.usage(), "rag": self._result()}

    def piece(self, index: int, delta: OutputDelta) -> Mapping[str, Any] | None:
        """Return the event for new text; the last one has the sources."""
        event = super().piece(index, delta)
        if event is None:
            return None
        (choice,) = event["choices"]
        self._length += len(choice["delta"].get("content") or "")
        if delta.finish_reason is None:
            return event
        content = {**choice["delta"], "annotations": self._annotations()}
        return {**event, "choices": [{**choice, "delta": content}], "rag": self._result()}

    def closing(self, tally: TokenUsage, *, include_usage: bool) -> Mapping[str, Any] | None:
        """Return the event with the token counts, or None if they were not requested."""
        event = super().closing(tally, include_usage=include_usage)
        return None if event is None else {**event, "usage": self._answer.usage()}

    def _annotations(self) -> list[dict[str, Any]]:
        """Return a citation for each passage that the answer comes from."""
        sources = self._answer.sources()
        return [_citation(source, self._length) for source in sources if source["used"]]

    def _result(self) -> dict[str, Any]:
        answer = self._answer
        return {"query": self._query, "sources": answer.sources(), "trace": answer.trace()}


def _citation(source: Mapping[str, Any], length: int) -> dict[str, Any]:
    """Return a passage as a citation of the whole answer, in the form of OpenAI's API."""
    document_id = source["document_id"]
    address = document_id if "://" in document_id else f"document:{quote(document_id)}"
    citation = {
        "url": address,
        "title": source["title"] or document_id,
        "start_index": 0,
        "end_index": length,
        "content": source["text"],
    }
    return {"type": "url_citation", "url_citation": citation}


async def _sampling(
    service: Service, served: ServedModel, body: ChatCompletionRequest, calls: ToolChoice | None
) -> SamplingParams:
    """Return the sampling settings of an answer, by default those of an answer without chat."""
    tokens = max_tokens_of(body)
    with service.scheduler.reserve():
        grammar = await compile_grammar(service, served.model, body, calls)
    params = sampling_params(
        body,
        _DEFAULTS.max_new_tokens if tokens is None else tokens,
        vocabulary=served.prompts.vocabulary,
        top_k=body.top_k,
        grammar=grammar,
    )
    return params if body.temperature is not None else replace(params, temperature=0.0)


def _require_supported(body: ChatCompletionRequest) -> None:
    """Refuse a chat with settings that an answer from documents does not have.

    Raises:
        ApiError: for several choices or log-probabilities.
    """
    refused = {"n": body.n not in (None, 1), "logprobs": bool(body.logprobs)}
    for name, is_set in refused.items():
        if is_set:
            raise invalid(
                f"'{name}': an answer from documents does not support it; leave it out, or chat "
                "without documents",
                param=name,
                code="unsupported_value",
            )
