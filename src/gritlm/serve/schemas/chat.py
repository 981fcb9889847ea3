"""``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gritlm.serve.schemas.common import (
    Body,
    FinishReason,
    Hint,
    NoList,
    NoObject,
    Off,
    Reply,
    Seed,
    Stop,
    StreamOptions,
    Temperature,
    Tokens,
    TopK,
    TopP,
    Usage,
    Zero,
    only,
)
from gritlm.serve.settings import MAX_CHOICES

Role = Literal["system", "developer", "user", "assistant"]
Nothing = Annotated[None, Field(description="Only null: this server has no such thing.")]


class TextPart(Body):
    type: Literal["text"]
    text: str


class MessageBody(Body):
    """One turn. What answers of this API hold besides their text may come back as null."""

    role: Role
    content: str | list[TextPart]
    refusal: Nothing = None
    annotations: NoList | None = None
    audio: Nothing = None
    function_call: Nothing = None
    tool_calls: NoList | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)

    def as_turn(self) -> dict[str, str]:
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.text}


class TextFormat(Body):
    type: Literal["text"]


class ChatBody(Body):
    """OpenAI's, and ``top_k``."""

    messages: list[MessageBody] = Field(min_length=1)
    model: str | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Temperature | None = Field(None, description="1 if left out, as in OpenAI's API.")
    top_p: TopP | None = None
    top_k: TopK | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    seed: Seed | None = None
    stop: Stop = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    user: Hint | None = None
    safety_identifier: Hint | None = None
    prompt_cache_key: Hint | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: NoObject | None = None
    metadata: NoObject | None = None
    modalities: Annotated[list[str], only(["text"])] | None = None
    response_format: TextFormat | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Off | None = None
    tools: NoList | None = None
    tool_choice: Literal["none", "auto"] | None = None


class TopLogprob(Reply):
    token: str
    logprob: float
    bytes: list[int] | None = Field(description="null for a part of a character.")


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(Reply):
    content: list[TokenLogprob]
    refusal: None = None


class Message(Reply):
    role: Literal["assistant"]
    content: str
    refusal: None = None


class Choice(Reply):
    index: int
    message: Message
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason


class ChatReply(Reply):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str


class Delta(Reply):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Reply):
    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(Reply):
    """An event of a stream; with ``include_usage`` the last one has no choice and the usage."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    system_fingerprint: str
    usage: Usage | None = None
