"""``/v1/models``, ``/tokenize``, ``/detokenize`` and ``/health``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gritlm.serve.schemas.chat_completions import Messages
from gritlm.serve.schemas.common import Body, Reply

MAX_CHARACTERS = 2**20  # of a text to tokenize
MAX_TOKENS = 2**18  # to detokenize


class ModelReply(Reply):
    """OpenAI's, and what this model can do here."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int = Field(description="Tokens of a prompt and its answer, or of a text.")
    embedding_dimension: int
    query_instruction: str
    embeds: bool
    writes: bool
    documents: bool = Field(description="Whether the server has a store for /v1/rag.")


class ModelsReply(Reply):
    object: Literal["list"]
    data: list[ModelReply]


class TokenizeBody(Body):
    """Either ``prompt`` or ``messages``."""

    prompt: str | None = Field(None, max_length=MAX_CHARACTERS)
    messages: Messages | None = None
    model: str | None = None
    add_special_tokens: bool = Field(
        True, description="Put the tokenizer's BOS in front; of a prompt only."
    )
    return_token_strs: bool = False


class TokenizeReply(Reply):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeBody(Body):
    tokens: Annotated[
        list[Annotated[int, Field(ge=0, le=2**31 - 1)]],
        Field(fail_fast=True, max_length=MAX_TOKENS),
    ]
    model: str | None = None


class DetokenizeReply(Reply):
    prompt: str


class HealthReply(Reply):
    status: Literal["ok", "alive"]
