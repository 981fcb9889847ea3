"""Models of ``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gritlm.serve.config import MAX_CHOICES
from gritlm.serve.schemas.base import (
    MAX_FIELDS,
    Hint,
    RequestModel,
    ResponseModel,
    bounded,
    refused,
)
from gritlm.serve.schemas.common import (
    Off,
    StreamOptions,
    Usage,
    null_only,
    only,
)
from gritlm.serve.schemas.content_parts import Content, ContentPart
from gritlm.serve.schemas.passages import Annotation, RagResult
from gritlm.serve.schemas.rag_options import AnswerFields
from gritlm.serve.schemas.sampling import SamplingFields, Tokens, TopK
from gritlm.serve.schemas.structured_output import StructuredRequest
from gritlm.serve.schemas.tools import (
    RequestToolCalls,
    ResponseToolCall,
    ToolCallDelta,
    ToolChoiceOption,
    Tools,
)

MAX_MESSAGES = 4096


def _known_role(role: Any) -> Any:
    if role == "function":
        raise refused(
            "unsupported_value",
            "'function': this server knows the newer role of tools; send 'tool' with tool_call_id",
        )
    return role


Role = Annotated[
    Literal["system", "developer", "user", "assistant", "tool"], BeforeValidator(_known_role)
]
Null = Annotated[
    None,
    null_only("this server does not support it; leave it out"),
    Field(description="Only null: this server does not support it."),
]
NoCall = Annotated[
    None,
    null_only("this server knows the newer field; send tool_calls"),
    Field(description="Only null: send tool_calls."),
]


NoFunction = Annotated[
    None,
    null_only("this server knows the newer fields; send tools and tool_choice"),
    Field(description="Only null: send tools and tool_choice."),
]


class RequestMessage(RequestModel):
    """A message of the conversation.

    The assistant's may have tool calls, with or without content. Of the other fields of a response
    message, most are accepted with null alone.
    """

    role: Role
    content: Content
    name: Hint = None
    refusal: Null = None
    annotations: Hint = None
    cache_control: Hint = None
    audio: Null = None
    function_call: NoCall = None
    tool_calls: RequestToolCalls | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_content(cls, data: Any) -> Any:
        """Take calls without content as calls with empty content."""
        if isinstance(data, dict) and data.get("tool_calls") and data.get("content") is None:
            return data | {"content": ""}
        return data

    @model_validator(mode="after")
    def _require_role(self) -> RequestMessage:
        if self.tool_calls and self.role != "assistant":
            raise refused("unsupported_value", "only messages of the assistant have 'tool_calls'")
        if (self.tool_call_id is None) == (self.role == "tool"):
            raise refused(
                "unsupported_value",
                "messages of the role 'tool', and no others, have 'tool_call_id'",
            )
        return self

    @property
    def text(self) -> str:
        return "".join(part.text or "" for part in self.content)

    @property
    def media(self) -> list[ContentPart]:
        """The images and sounds of the content."""
        return [part for part in self.content if part.is_media]

    @property
    def characters(self) -> int:
        """Characters of the text and of the arguments of calls."""
        calls = sum(len(call.function.arguments) for call in self.tool_calls or ())
        return len(self.text) + calls

    def as_turn(self) -> dict[str, Any]:
        """Return role, content and calls for the chat template.

        The content is a text, or a list of parts if an image or a sound is among them.
        """
        role = "system" if self.role == "developer" else self.role
        content = [part.as_part() for part in self.content] if self.media else self.text
        turn: dict[str, Any] = {"role": role, "content": content}
        if self.tool_calls:
            turn["tool_calls"] = [call.model_dump(exclude={"index"}) for call in self.tool_calls]
        return turn if self.tool_call_id is None else turn | {"tool_call_id": self.tool_call_id}


Messages = Annotated[
    list[RequestMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)
]


def _few_variables(value: Any) -> Any:
    return {name: each for name, each in bounded(value).items() if each is not None}


TemplateVariables = Annotated[
    dict[str, Any],
    AfterValidator(_few_variables),
    Field(
        description="Variables of the model's chat template, such as enable_thinking; those that "
        "it does not use are ignored.",
        json_schema_extra={"maxProperties": MAX_FIELDS},
    ),
]


class ChatCompletionRequest(SamplingFields, StructuredRequest):
    """Chat completion request as in OpenAI's API, with vLLM's sampling parameters."""

    messages: Messages
    model: str | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    top_k: TopK | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    user: Hint = None
    safety_identifier: Hint = None
    prompt_cache_key: Hint = None
    metadata: Hint = None
    prediction: Hint = None
    prompt_cache_options: Hint = None
    prompt_cache_retention: Hint = None
    reasoning_effort: Hint = None
    service_tier: Hint = None
    store: Hint = None
    verbosity: Hint = None
    chat_template_kwargs: TemplateVariables | None = None
    cache_control: Hint = None
    modalities: Annotated[list[str], Field(fail_fast=True), only(["text"])] | None = None
    chat_template: Null = None
    functions: NoFunction = None
    function_call: NoFunction = None
    continue_final_message: Off | None = None
    tools: Tools | None = None
    tool_choice: ToolChoiceOption | None = None
    parallel_tool_calls: bool | None = None
    rag: AnswerFields | None = Field(
        None,
        description="Answer the last message from the store of documents, with these options. The "
        "model name with ':rag' does the same with the default options.",
    )


ChatFinishReason = Literal["stop", "length", "tool_calls"]


class TopLogprob(ResponseModel):
    token: str
    logprob: float
    bytes: list[int] = Field(
        description="UTF-8 bytes of the token, which may be a part of a character; empty for a "
        "special token. The bytes of all tokens, joined, are the generated text."
    )


class ChatTokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(ResponseModel):
    content: list[ChatTokenLogprob]
    refusal: None = None


class ResponseMessage(ResponseModel):
    role: Literal["assistant"]
    annotations: list[Annotation] = Field([], description="Sources of an answer from documents.")
    content: str | None
    refusal: None = None
    tool_calls: list[ResponseToolCall] | None = None


class ChatChoice(ResponseModel):
    index: int
    message: ResponseMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: ChatFinishReason
    stop_reason: str | int | None = Field(
        None, description="The stop string or stop token of the request that ended the text."
    )


class ChatCompletionResponse(ResponseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    rag: RagResult | None = None


class ChatDelta(ResponseModel):
    role: Literal["assistant"] | None = None
    annotations: list[Annotation] = Field(
        [], description="Sources of an answer from documents; in the last delta."
    )
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChunkChoice(ResponseModel):
    index: int
    delta: ChatDelta
    logprobs: ChoiceLogprobs | None
    finish_reason: ChatFinishReason | None
    stop_reason: str | int | None = Field(
        None, description="The stop string or stop token of the request that ended the text."
    )


class ChatCompletionChunk(ResponseModel):
    """An event of a stream.

    With ``include_usage``, the last event has no choices and the token counts.
    """

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    system_fingerprint: str
    usage: Usage | None = None
    rag: RagResult | None = None
