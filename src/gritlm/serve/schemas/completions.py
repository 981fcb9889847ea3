"""Models of ``POST /v1/completions``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gritlm.serve.config import MAX_CHOICES
from gritlm.serve.schemas.base import Hint, RequestModel, ResponseModel
from gritlm.serve.schemas.chat_completions import Null
from gritlm.serve.schemas.common import (
    FinishReason,
    NoObject,
    Off,
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
from gritlm.serve.schemas.embeddings import Input


class CompletionRequest(RequestModel):
    """Completion request as in OpenAI's API, with ``top_k``."""

    prompt: Input
    model: str | None = None
    max_tokens: Tokens | None = Field(None, description="Default 16, as in OpenAI's API.")
    temperature: Temperature | None = Field(None, description="Default 1, as in OpenAI's API.")
    top_p: TopP | None = None
    top_k: TopK | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    seed: Seed | None = None
    stop: Stop = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: int | None = Field(None, ge=0, le=5)
    user: Hint = None
    best_of: Annotated[int, only(1), Field(json_schema_extra={"enum": [1]})] | None = None
    echo: Off | None = None
    suffix: Null = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: NoObject | None = None


class Logprobs(ResponseModel):
    tokens: list[str] = Field(
        description=r"Text of each token; bytes:\xf0\x9f for a part of a character; token_id:7 if "
        "two tokens have the same text."
    )
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(ResponseModel):
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: FinishReason | None


class CompletionResponse(ResponseModel):
    """A completion, or an event of a stream, whose choices hold the new text."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    system_fingerprint: str
    usage: Usage | None
