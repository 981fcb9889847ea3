"""Models of ``POST /v1/embeddings``, ``POST /v1/rerank`` and vLLM's ``POST /score``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, Field, PlainValidator, WithJsonSchema

from gritlm.serve.config import MAX_INPUTS, RerankMethod
from gritlm.serve.schemas.base import Hint, RequestModel, ResponseModel, bounded, refused
from gritlm.serve.schemas.chat_completions import Messages
from gritlm.serve.schemas.common import ReadUsage
from gritlm.serve.schemas.content_parts import (
    INPUT_OBJECT_SCHEMA,
    PartsInput,
    input_of_object,
)

Inputs = list[str] | list[list[int]]
EmbeddingInputs = Inputs | list[str | PartsInput]
Truncation = Annotated[
    int,
    Field(
        ge=-1,
        le=2**31 - 1,
        description="Truncate each text to this many tokens; -1 for as many as fit.",
    ),
]


# The words of several APIs for a text that is searched for, and for other texts.
InputType = Literal[
    "query",
    "document",
    "passage",
    "search_query",
    "search_document",
    "classification",
    "clustering",
]
Task = Literal[
    "retrieval.query",
    "retrieval.passage",
    "retrieval",
    "text-matching",
    "classification",
    "separation",
    "clustering",
    "code.query",
    "code.passage",
    "nl2code.query",
    "nl2code.passage",
]
Truncate = bool | Literal["NONE", "END"]


def input_items(value: Any) -> Inputs:
    """Return a list of texts, or of the token ids of texts; a single one becomes a list.

    Args:
        value: the field as it was sent.

    Raises:
        PydanticCustomError: if an item is empty or of another type; the message has its index.
    """
    if isinstance(value, str):
        items: Any = [value]
    elif not isinstance(value, list):
        raise refused("wrong_type", f"{_kind(value)}; expected text, texts, or token ids")
    else:
        items = [value] if value and _is_id(value[0]) else value
    if not 1 <= len(items) <= MAX_INPUTS:
        raise refused("too_many", f"{len(items):,} inputs; expected 1 to {MAX_INPUTS:,}")
    kind = str if isinstance(items[0], str) else list
    for index, item in enumerate(items):
        if not isinstance(item, kind) or not isinstance(item, str | list):
            raise refused(
                "wrong_type", f"item {index} is {_kind(item)}; expected all text or all token ids"
            )
        if not item:
            raise refused("empty", f"item {index} of {len(items)} is empty; expected some text")
        if isinstance(item, list) and not all(map(_is_id, item)):
            raise refused("wrong_type", f"item {index} has a value that is not a token id")
    return items


def embedding_items(value: Any) -> EmbeddingInputs:
    """Return a list of inputs to embed, as :func:`input_items` does; some may be objects.

    Args:
        value: the field as it was sent.

    Raises:
        PydanticCustomError: for an invalid item; the message has its index.
    """
    many = [value] if isinstance(value, dict) else value
    if not isinstance(many, list) or not any(isinstance(each, dict) for each in many):
        return input_items(value)
    input_items(["an object" if isinstance(each, dict) else each for each in many])
    return [
        input_of_object(bounded(each), f"item {index}") if isinstance(each, dict) else each
        for index, each in enumerate(many)
    ]


def _is_id(value: Any) -> bool:
    return type(value) is int


def _kind(value: Any) -> str:
    names = {type(None): "null", dict: "an object", list: "a list", str: "a text"}
    return names.get(type(value), f"the value {str(value)[:40]}")


_ID = {"type": "integer", "minimum": 0}
_IDS = {"type": "array", "items": _ID, "minItems": 1}
_TEXT = {"type": "string", "minLength": 1}
_ITEMS = {"minItems": 1, "maxItems": MAX_INPUTS}
_SCHEMA = {
    "anyOf": [
        _TEXT,
        {"type": "array", "items": _TEXT, **_ITEMS},
        _IDS,
        {"type": "array", "items": _IDS, **_ITEMS},
    ]
}
_OBJECTS = {"type": "array", "items": {"anyOf": [_TEXT, INPUT_OBJECT_SCHEMA]}, **_ITEMS}
_EMBEDDING_SCHEMA = {"anyOf": [*_SCHEMA["anyOf"], INPUT_OBJECT_SCHEMA, _OBJECTS]}

Input = Annotated[Inputs, PlainValidator(input_items), WithJsonSchema(_SCHEMA)]
EmbeddingInput = Annotated[
    EmbeddingInputs, PlainValidator(embedding_items), WithJsonSchema(_EMBEDDING_SCHEMA)
]


class EmbeddingsRequest(RequestModel):
    """Embedding request as in OpenAI's API, with ``instruction``, ``input_type`` and
    ``truncate_prompt_tokens``; it has ``input`` or ``messages``."""

    input: EmbeddingInput | None = Field(
        None,
        description="A text or a list of texts. An input with an image or a sound is an object: "
        "image and audio as data: URLs or base64, next to text, or content, a list of content "
        "parts. Token ids only if the server runs with --allow-token-ids.",
    )
    messages: Messages | None = Field(
        None,
        description="A single input as in vLLM: a message of the user, perhaps after a message of "
        "the system, which is the instruction.",
    )
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="float, the default, or base64 of little-endian float32 values."
    )
    dimensions: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        validation_alias=AliasChoices("dimensions", "output_dimension"),
        description="Keep the first dimensions of each vector, normalized again. Voyage's word "
        "output_dimension is accepted too.",
    )
    user: Hint = None
    instruction: str | None = Field(
        None, description="Instruction in plain words, such as 'Retrieve the abstract'."
    )
    input_type: InputType | None = Field(
        None,
        description="query: use the model's own instruction for queries. document, the default: "
        "use no instruction. The words of Cohere and NVIDIA NIM stand for one of the two.",
    )
    task: Task | None = Field(None, description="The same in Jina's words.")
    truncate: Truncate | None = Field(
        None,
        description="true, or END as in NVIDIA NIM: cut long texts at their end. false, or NONE: "
        "refuse them.",
    )
    truncation: bool | None = Field(None, description="The same in Voyage's words.")
    truncate_prompt_tokens: Truncation | None = None


class EmbeddingObject(ResponseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsResponse(ResponseModel):
    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: ReadUsage


class TextObject(RequestModel):
    text: str


def _documents(value: list[str | TextObject]) -> list[str | TextObject]:
    for index, item in enumerate(value):
        if not (item if isinstance(item, str) else item.text):
            raise refused("empty", f"document {index} is empty; expected some text")
    return value


Rerankable = Annotated[
    list[str | TextObject],
    Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS),
    AfterValidator(_documents),
]


class RerankRequest(RequestModel):
    """Rerank request as in the APIs of Cohere and Jina."""

    query: str = Field(min_length=1)
    documents: Rerankable
    model: str | None = None
    top_n: int | None = Field(None, ge=1, le=2**31 - 1)
    return_documents: bool | None = None
    instruction: str | None = Field(
        None, description="Instruction for the query; by default the model's own for queries."
    )
    method: RerankMethod | None = Field(
        None,
        description="embed: relevance is the cosine of query and document. generate: relevance is "
        "the probability, 0 to 1, that the model answers yes to the question whether the document "
        "answers the query. likelihood: relevance, 0 to 1, grows with the likelihood of the query "
        "behind the document, and with the cosine if the model is calibrated; 0.5 is neutral. By "
        "default the server's --rerank, else likelihood of a calibrated model and embed of others.",
    )
    truncate_prompt_tokens: Truncation | None = None


class RerankResult(ResponseModel):
    index: int
    relevance_score: float
    document: TextObject | None = None


class RerankResponse(ResponseModel):
    id: str
    model: str
    results: list[RerankResult]
    usage: ReadUsage


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
