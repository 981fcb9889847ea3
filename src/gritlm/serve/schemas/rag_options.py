"""Options of a search for passages and of an answer from them, in requests of all routes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gritlm.errors import InputError
from gritlm.rag.index import filters
from gritlm.rag.index.filters import MOST_TERMS
from gritlm.serve.schemas.base import ExactRequestModel, refused

Scalar = str | int | float | bool | None


def _few_terms(value: Any) -> Any:
    """Refuse a filter with too many values before its values are validated."""
    if isinstance(value, dict):
        try:
            filters.require_few_terms(value)
        except InputError as error:
            raise refused("too_many", str(error)) from None
    return value


Filter = Annotated[
    dict[str, Scalar | Annotated[list[Scalar], Field(fail_fast=True, max_length=MOST_TERMS)]],
    BeforeValidator(_few_terms),
    Field(
        description="Metadata names, each with a value or with a list of values of which one must "
        f"match; at most {MOST_TERMS} values in all. An empty object filters nothing."
    ),
]
STORE_NAME = 64  # most characters of the name of a store
StoreName = Annotated[
    str,
    Field(
        max_length=STORE_NAME,
        description="Name of the document store; it may be left out if the key has one store, or "
        "one named default.",
    ),
]
TopPassages = Annotated[int, Field(ge=1, le=100)]


class SearchOptions(ExactRequestModel):
    """Options of a search for passages."""

    store: StoreName | None = None
    top_k: TopPassages = 3
    filter: Filter | None = None
    hybrid: bool = Field(False, description="Combine the search by vectors with full-text search.")
    rerank: int = Field(
        0,
        ge=0,
        le=100,
        description="Number of candidates that the model reranks; 0 for no reranking.",
    )
    rerank_method: Literal["yes-no", "likelihood"] = Field(
        "likelihood",
        description="likelihood ranks by the likelihood of the question after each passage, with "
        "the cosine as the model's calibration weighs it; yes-no asks the model whether each "
        "passage answers the question.",
    )


class AnswerFields(SearchOptions):
    """Options of an answer from passages."""

    top_k: TopPassages = Field(
        5, description="Number of candidates: passages that the answer may come from."
    )
    fusion: Literal["sequence", "token", "joint"] | None = Field(
        None,
        description="Use of several passages: sequence reads each alone and answers from the best, "
        "token mixes all at every token, joint puts all into one prompt. null for sequence in mode "
        "doc, joint in the others.",
    )
    margin: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Passages within this cosine of the best one are read; null for the model's.",
    )
    contrast: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Weight of the contrast to a prompt without passage, for fusion token.",
    )
    mode: Literal["none", "query", "doc", "doc-query", "query-doc"] = Field(
        "doc",
        description="Which stored key/value state is reused: of the documents (doc), of the "
        "question (query), of both in this order, or none.",
    )
    blocks: Literal["bidirectional", "causal"] | None = Field(
        None,
        description="Attention with which the documents were read; null for the kind that is "
        "stored.",
    )
