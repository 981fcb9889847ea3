"""Models of Anthropic's API: ``/v1/messages`` and ``/v1/messages/count_tokens``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gritlm.lm.tools.definitions import MAX_TOOLS
from gritlm.serve.schemas.base import Hint, RequestModel, ResponseModel, refused
from gritlm.serve.schemas.chat_completions import MAX_MESSAGES
from gritlm.serve.schemas.content_parts import MAX_PARTS
from gritlm.serve.schemas.passages import RagResult
from gritlm.serve.schemas.rag_options import AnswerFields
from gritlm.serve.schemas.sampling import Stop, Temperature, Tokens, TopP
from gritlm.serve.schemas.structured_output import Schema
from gritlm.serve.schemas.tools import Name


class TextBlockParam(RequestModel):
    type: Literal["text"]
    text: str
    cache_control: Hint = None
    citations: Hint = None


class ImageSource(RequestModel):
    """Bytes of an image in base64, or an address of the web where the server allows it."""

    type: Literal["base64", "url"]
    media_type: Annotated[str, Field(max_length=64)] | None = None
    data: Annotated[str, Field(min_length=1)] | None = None
    url: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _require_content(self) -> ImageSource:
        if (self.data if self.type == "base64" else self.url) is None:
            needed = "data" if self.type == "base64" else "url"
            raise refused("missing_content", f"a source of the type '{self.type}' needs '{needed}'")
        return self


class ImageBlockParam(RequestModel):
    type: Literal["image"]
    source: ImageSource
    cache_control: Hint = None

    def as_part(self) -> dict[str, Any]:
        """Return the image as a part of a chat."""
        kind = self.source.media_type or "image/png"
        data = f"data:{kind};base64,{self.source.data}"
        url = data if self.source.type == "base64" else self.source.url
        return {"type": "image_url", "image_url": {"url": url}}


Texts = str | Annotated[list[TextBlockParam], Field(fail_fast=True, max_length=MAX_PARTS)]


class ToolUseParam(RequestModel):
    """A tool call that the assistant made earlier in the conversation."""

    type: Literal["tool_use"]
    id: str = Field(min_length=1, max_length=256)
    name: Name
    input: dict[str, Any]
    cache_control: Hint = None


class ToolResultParam(RequestModel):
    """The result of a tool call."""

    type: Literal["tool_result"]
    tool_use_id: str = Field(min_length=1, max_length=256)
    content: Texts | None = None
    is_error: Hint = None
    cache_control: Hint = None


Block = Annotated[
    TextBlockParam | ImageBlockParam | ToolUseParam | ToolResultParam, Field(discriminator="type")
]


class AnthropicMessage(RequestModel):
    role: Literal["user", "assistant"]
    content: str | Annotated[list[Block], Field(fail_fast=True, max_length=MAX_PARTS)]


class AnthropicTool(RequestModel):
    name: Name
    input_schema: Schema
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: Hint = None


class AnthropicToolChoice(RequestModel):
    """Choice of a tool: by the model, any, none, or the tool with a name."""

    type: Literal["auto", "any", "none", "tool"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None


class CountTokensRequest(RequestModel):
    """Request for the number of tokens of a conversation, as in Anthropic's API."""

    model: str
    messages: Annotated[
        list[AnthropicMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)
    ]
    system: Texts | None = None
    tools: Annotated[list[AnthropicTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: Hint = None


class MessagesRequest(CountTokensRequest):
    """Request for the next message, as in Anthropic's API; with ``rag`` for documents."""

    max_tokens: Tokens
    stop_sequences: Stop = None
    stream: bool | None = None
    temperature: Temperature | None = Field(None, description="Default 1, as in Anthropic's API.")
    top_p: TopP | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    rag: AnswerFields | None = Field(
        None, description="Answer the last message from the store of documents."
    )
    metadata: Hint = None
    service_tier: Hint = None
    container: Hint = None
    inference_geo: Hint = None


class ContentBlock(ResponseModel):
    """A text, or a tool call with ``id``, ``name`` and ``input``."""

    type: Literal["text", "tool_use"]
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None


class MessageUsage(ResponseModel):
    input_tokens: int = Field(description="Tokens of the prompt that were read.")
    cache_read_input_tokens: int = Field(description="Tokens of the prompt that were reused.")
    output_tokens: int


class MessagesResponse(ResponseModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"] | None
    stop_sequence: str | None
    usage: MessageUsage
    rag: RagResult | None = None


class MessageStreamEvent(ResponseModel):
    """An event of a stream, as Anthropic's API names and orders them."""

    type: Literal[
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    ]


class CountTokensResponse(ResponseModel):
    input_tokens: int


class AnthropicErrorDetail(ResponseModel):
    type: str
    message: str


class AnthropicError(ResponseModel):
    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str
