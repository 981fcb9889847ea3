"""``/v1/models``, ``/tokenize``, ``/detokenize`` and ``/health``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gritlm.serve.schemas.chat import MessageBody
from gritlm.serve.schemas.common import Body, Reply


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

    prompt: str | None = None
    messages: list[MessageBody] | None = Field(None, min_length=1)
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
    tokens: list[Annotated[int, Field(ge=0, le=2**31 - 1)]]
    model: str | None = None


class DetokenizeReply(Reply):
    prompt: str


class HealthReply(Reply):
    status: Literal["ok", "alive"]
