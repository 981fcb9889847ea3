"""Models of vLLM's ``/score``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, Field

from gritlm.serve.config import MAX_INPUTS
from gritlm.serve.schemas.base import Hint, RequestModel, ResponseModel
from gritlm.serve.schemas.common import ReadUsage
from gritlm.serve.schemas.embeddings import Truncation

_Text = Annotated[str, Field(min_length=1)]
_Texts = _Text | Annotated[list[_Text], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]


class ScoreRequest(RequestModel):
    """Score request as in vLLM: one text and others, or two lists of the same length.

    The fields may be named ``queries`` and ``documents`` too.
    """

    text_1: _Texts = Field(validation_alias=AliasChoices("text_1", "queries"))
    text_2: _Texts = Field(validation_alias=AliasChoices("text_2", "documents", "items"))
    model: str | None = None
    instruction: str | None = Field(
        None, description="Instruction for text_1; by default the model's own for queries."
    )
    truncate_prompt_tokens: Truncation | None = None
    user: Hint = None
    priority: Hint = None
    encoding_format: Hint = None


class ScoreObject(ResponseModel):
    index: int
    object: Literal["score"]
    score: float = Field(description="Cosine of the two texts.")


class ScoreResponse(ResponseModel):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ScoreObject]
    usage: ReadUsage
