"""Models of ``POST /v1/completions``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gritlm.serve.config import MAX_CHOICES
from gritlm.serve.schemas.base import Hint, ResponseModel
from gritlm.serve.schemas.chat_completions import Null
from gritlm.serve.schemas.common import (
    FinishReason,
    StreamOptions,
    Usage,
    only,
)
from gritlm.serve.schemas.embeddings import Input
from gritlm.serve.schemas.sampling import SamplingFields, TopK
from gritlm.serve.schemas.structured_output import StructuredRequest


class CompletionRequest(SamplingFields, StructuredRequest):
    """Completion request as in OpenAI's API, with vLLM's sampling parameters."""

    prompt: Input
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None, description="Default 16, as in OpenAI's API; 0 with echo only."
    )
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    top_k: TopK | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: int | None = Field(
        None, ge=0, le=5, description="With echo, also of the tokens of the prompt."
    )
    echo: bool | None = Field(None, description="Whether the text begins with the prompt.")
    user: Hint = None
    best_of: Annotated[int, only(1), Field(json_schema_extra={"enum": [1]})] | None = None
    suffix: Null = None


class Logprobs(ResponseModel):
    tokens: list[str] = Field(
        description=r"Text of each token; bytes:\xf0\x9f for a part of a character; token_id:7 if "
        "two tokens have the same text."
    )
    token_logprobs: list[float | None] = Field(
        description="null for the first token of a prompt, which follows no other."
    )
    top_logprobs: list[dict[str, float] | None] | None
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
