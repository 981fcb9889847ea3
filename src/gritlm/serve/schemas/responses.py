"""Models of ``POST /v1/responses``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gritlm.lm.tools.definitions import MAX_TOOLS
from gritlm.serve.schemas.base import Hint, RequestModel, ResponseModel
from gritlm.serve.schemas.chat_completions import MAX_MESSAGES, Null
from gritlm.serve.schemas.content_parts import MAX_PARTS, InputAudio
from gritlm.serve.schemas.passages import RagResult
from gritlm.serve.schemas.rag_options import AnswerFields
from gritlm.serve.schemas.sampling import Temperature, Tokens, TopP
from gritlm.serve.schemas.structured_output import Schema
from gritlm.serve.schemas.tools import Name, ToolType


class InputPart(RequestModel):
    """Text of a message."""

    type: Literal["input_text", "output_text", "text"]
    text: str

    def as_part(self) -> dict[str, Any]:
        """Return the part as a chat has it."""
        return {"type": "text", "text": self.text}


class InputImage(RequestModel):
    """An image: a data: URL, or an address of the web where the server allows it."""

    type: Literal["input_image"]
    image_url: str = Field(min_length=1)
    detail: Hint = None
    file_id: Null = None

    def as_part(self) -> dict[str, Any]:
        """Return the part as a chat has it."""
        return {"type": "image_url", "image_url": {"url": self.image_url}}


class InputSound(RequestModel):
    """A sound, as in chats."""

    type: Literal["input_audio"]
    input_audio: InputAudio

    def as_part(self) -> dict[str, Any]:
        """Return the part as a chat has it."""
        return {"type": self.type, self.type: self.input_audio.model_dump()}


ContentItem = Annotated[InputPart | InputImage | InputSound, Field(discriminator="type")]


class InputMessage(RequestModel):
    """A message of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[ContentItem], Field(fail_fast=True, max_length=MAX_PARTS)]
    id: Hint = None
    status: Hint = None
    phase: Hint = None


class InputCall(RequestModel):
    """A function call that the assistant made earlier in the conversation."""

    type: Literal["function_call"]
    call_id: str = Field(min_length=1, max_length=256)
    name: Name
    arguments: str
    id: Hint = None
    status: Hint = None


class InputCallOutput(RequestModel):
    """The result of a function call."""

    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1, max_length=256)
    output: str
    id: Hint = None
    status: Hint = None


Item = InputMessage | InputCall | InputCallOutput


class FunctionTool(RequestModel):
    type: ToolType
    name: Name
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class NamedFunction(RequestModel):
    type: Literal["function"]
    name: Name


class TextOptions(RequestModel):
    format: dict[str, Any] | None = Field(
        None, description="Format of the text, as response_format of a chat."
    )
    verbosity: Hint = None


class ResponsesRequest(RequestModel):
    """Request as in OpenAI's Responses API; the server keeps no responses."""

    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Item], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    )
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    temperature: Temperature | None = Field(None, description="Default 1, as in OpenAI's API.")
    top_p: TopP | None = None
    stream: bool | None = None
    text: TextOptions | None = None
    tools: Annotated[list[FunctionTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    rag: AnswerFields | None = Field(
        None, description="Answer the last message from the store of documents."
    )
    previous_response_id: Null = None
    conversation: Null = None
    prompt: Null = None
    background: Hint = None
    include: Hint = None
    max_tool_calls: Hint = None
    metadata: Hint = None
    prompt_cache_key: Hint = None
    reasoning: Hint = None
    safety_identifier: Hint = None
    service_tier: Hint = None
    store: Hint = None
    stream_options: Hint = None
    truncation: Hint = None
    user: Hint = None


class OutputText(ResponseModel):
    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[Any]


class OutputMessage(ResponseModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]


class OutputCall(ResponseModel):
    id: str
    type: Literal["function_call"]
    status: Literal["in_progress", "completed", "incomplete"]
    call_id: str
    name: str
    arguments: str


class IncompleteDetails(ResponseModel):
    reason: Literal["max_output_tokens"]


class ResponseUsage(ResponseModel):
    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class ResponseObject(ResponseModel):
    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete"]
    error: None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputMessage | OutputCall]
    parallel_tool_calls: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[Any]
    top_p: float | None
    usage: ResponseUsage | None
    rag: RagResult | None = None


class ResponseStreamEvent(ResponseModel):
    """An event of a stream, as OpenAI's API names and orders them."""

    type: str
    sequence_number: int
