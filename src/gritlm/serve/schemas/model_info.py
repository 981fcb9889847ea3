"""Models of ``/v1/models``, ``/tokenize``, ``/detokenize`` and ``/health``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gritlm.serve.schemas.base import RequestModel, ResponseModel
from gritlm.serve.schemas.chat_completions import Messages, TemplateVariables

MAX_CHARACTERS = 2**20  # of a text to tokenize
MAX_TOKENS = 2**18  # to detokenize


class ModelObject(ResponseModel):
    """Model object as in OpenAI's API, with the abilities of the model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None = Field(
        description="The model over whose base this one is another adapter; null for the first."
    )
    max_model_len: int = Field(
        description="Most tokens of a prompt with its output, or of a text to embed."
    )
    embedding_dimension: int
    query_instruction: str = Field(description="Default instruction of queries.")
    embeds: bool = Field(description="Whether the model embeds.")
    writes: bool = Field(description="Whether the model generates text.")
    reads: list[Literal["text", "image", "sound"]] = Field(description="Kinds of inputs.")
    documents: bool = Field(description="Whether the key may use a store, for /v1/rag.")
    parameters: int = Field(description="Number of parameters.")
    dtype: str = Field(description="Number format of the weights.")
    device: str = Field(description="Device of the weights.")
    memory_bytes: int = Field(
        description="Size of the weights in bytes, those of a shared base included."
    )


class ModelListResponse(ResponseModel):
    object: Literal["list"]
    data: list[ModelObject]


class TokenizeRequest(RequestModel):
    """Text or conversation to tokenize: either ``prompt`` or ``messages``."""

    prompt: str | None = Field(None, max_length=MAX_CHARACTERS)
    messages: Messages | None = None
    chat_template_kwargs: TemplateVariables | None = None
    model: str | None = None
    add_special_tokens: bool = Field(
        True, description="Prepend the tokenizer's BOS token; for a prompt only."
    )
    return_token_strs: bool = False


class TokenizeResponse(ResponseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(RequestModel):
    tokens: Annotated[
        list[Annotated[int, Field(ge=0, le=2**31 - 1)]],
        Field(fail_fast=True, max_length=MAX_TOKENS),
    ]
    model: str | None = None


class DetokenizeResponse(ResponseModel):
    prompt: str


class HealthResponse(ResponseModel):
    status: Literal["ok", "alive"]
