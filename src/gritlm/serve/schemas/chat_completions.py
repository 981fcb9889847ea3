"""Models of ``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from gritlm.serve.config import MAX_CHOICES
from gritlm.serve.schemas.base import Hint, RequestModel, ResponseModel, refused
from gritlm.serve.schemas.common import (
    FinishReason,
    NoTools,
    Off,
    StreamOptions,
    Usage,
    null_only,
    only,
)
from gritlm.serve.schemas.sampling import SamplingFields, Tokens, TopK

MAX_MESSAGES = 4096
MAX_PARTS = 1024  # of a message
NO_TOOLS = "this server does not call tools; leave it out"


def _no_tool(role: Any) -> Any:
    if role in ("tool", "function"):
        raise refused(
            "unsupported_value",
            f"{role!r}: this server does not call tools; put the result of a tool "
            "into a message of the user",
        )
    return role


Role = Annotated[Literal["system", "developer", "user", "assistant"], BeforeValidator(_no_tool)]
Null = Annotated[
    None,
    null_only("this server does not support it; leave it out"),
    Field(description="Only null: this server does not support it."),
]
NoCall = Annotated[
    None, null_only(NO_TOOLS), Field(description="Only null: this server does not call tools.")
]


class TextPart(RequestModel):
    type: Annotated[
        str,
        only("text", why="this server reads text only; expected 'text'"),
        Field(json_schema_extra={"enum": ["text"]}),
    ]
    text: str
    cache_control: Hint = None


def _as_parts(value: Any) -> Any:
    """Return the content of a message as a list of parts."""
    if isinstance(value, str):
        return [TextPart(type="text", text=value)]
    if value is None:
        raise refused(
            "unsupported_value",
            "null, as in messages that call tools; this server does not call tools, expected text",
        )
    if not isinstance(value, list):
        raise refused("wrong_type", "expected text, or a list of parts with text")
    return value


_PART = {
    "type": "object",
    "properties": {"type": {"enum": ["text"]}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": True,
}
_CONTENT = {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART, "maxItems": MAX_PARTS}]}
Content = Annotated[
    list[TextPart],
    Field(fail_fast=True, max_length=MAX_PARTS),
    BeforeValidator(_as_parts),
    WithJsonSchema(_CONTENT),
]


class RequestMessage(RequestModel):
    """A message of the conversation.

    Of the fields of a response message besides its text, most are accepted with null alone.
    """

    role: Role
    content: Content
    name: Hint = None
    refusal: Null = None
    annotations: Hint = None
    cache_control: Hint = None
    audio: Null = None
    function_call: NoCall = None
    tool_calls: NoTools | None = None

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content)

    def as_turn(self) -> dict[str, str]:
        """Return role and text for the chat template."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.text}


Messages = Annotated[
    list[RequestMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)
]


class TextFormat(RequestModel):
    type: Annotated[str, only("text"), Field(json_schema_extra={"enum": ["text"]})]


class ChatCompletionRequest(SamplingFields):
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
    parallel_tool_calls: Hint = None
    prediction: Hint = None
    prompt_cache_retention: Hint = None
    reasoning_effort: Hint = None
    service_tier: Hint = None
    store: Hint = None
    verbosity: Hint = None
    cache_control: Hint = None
    modalities: Annotated[list[str], Field(fail_fast=True), only(["text"])] | None = None
    response_format: TextFormat | None = None
    chat_template: Null = None
    continue_final_message: Off | None = None
    tools: NoTools | None = None
    tool_choice: (
        Annotated[
            str,
            only("none", "auto", why=NO_TOOLS),
            Field(json_schema_extra={"enum": ["none", "auto"]}),
        ]
        | None
    ) = None


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
    content: str
    refusal: None = None


class ChatChoice(ResponseModel):
    index: int
    message: ResponseMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason


class ChatCompletionResponse(ResponseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str


class ChatDelta(ResponseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(ResponseModel):
    index: int
    delta: ChatDelta
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason | None


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
