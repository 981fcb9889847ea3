"""Base models and field types of several endpoints. Unknown fields are refused, not ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from gritlm.serve.config import MAX_STOPS

LONGEST_STOP = 256  # characters
SEEDS = 2**63
MAX_FIELDS = 256  # of an object: each unknown one takes time to report


def _allow_nulls(schema: dict[str, Any]) -> None:
    """Declare in a schema that optional and unknown fields may be null."""
    null = {"type": "null"}
    schema["additionalProperties"] = null
    for name, field in schema.get("properties", {}).items():
        required = name in schema.get("required", ())
        if required or field.get("type") == "null" or null in field.get("anyOf", ()):
            continue
        notes = {key: field[key] for key in ("title", "description", "default") if key in field}
        kind = {key: value for key, value in field.items() if key not in notes}
        schema["properties"][name] = {**notes, "anyOf": [kind, null]}


class RequestModel(BaseModel):
    """Base of request models: strict types, no unknown fields, no NaN; null means left out."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        json_schema_extra=_allow_nulls,
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return _without_nulls(bounded(data), cls.model_fields)


class ResponseModel(BaseModel):
    """Base of response models. They describe responses in the schema and do not validate them."""

    model_config = ConfigDict(protected_namespaces=())


class ErrorDetail(ResponseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(ResponseModel):
    error: ErrorDetail


def refused(type: str, message: str) -> PydanticCustomError:
    """Return a validation error whose message reaches the client unchanged."""
    return PydanticCustomError(type, "{message}", {"message": message})


def bounded(data: Any) -> Any:
    """Refuse an object with too many fields before its fields are validated."""
    if isinstance(data, dict) and len(data) > MAX_FIELDS:
        raise refused("too_many", f"{len(data):,} fields; expected at most {MAX_FIELDS}")
    return data


def _without_nulls(data: Any, fields: Mapping[str, FieldInfo]) -> Any:
    """Remove fields that are null, except for required ones, which are reported as wrong."""
    if not isinstance(data, dict):
        return data
    return {
        name: value
        for name, value in data.items()
        if value is not None or (name in fields and fields[name].is_required())
    }


def nothing(why: str) -> BeforeValidator:
    """Return a validator for fields of OpenAI's API that must be null here.

    Args:
        why: error message for another value.
    """

    def check(value: Any) -> None:
        if value is not None:
            raise refused("unsupported_value", why)

    return BeforeValidator(check)


def only(*values: Any, why: str | None = None) -> AfterValidator:
    """Return a validator for fields of OpenAI's API with a few supported values.

    Args:
        *values: the supported values.
        why: error message for another value; None for a message that lists the supported ones.
    """

    def check(value: Any) -> Any:
        if value in values:
            return value
        supported = " or ".join(map(repr, values))
        raise refused(
            "unsupported_value", why or f"this server supports only {supported}; leave it out"
        )

    return AfterValidator(check)


def _few_stops(value: Any) -> Any:
    if isinstance(value, list) and len(value) > MAX_STOPS:
        raise refused("too_many", f"{len(value)} stop strings; expected at most {MAX_STOPS}")
    return value


def _stops(value: str | list[str] | None) -> str | list[str] | None:
    many = [value] if isinstance(value, str) else value or []
    for stop in many:
        if not 1 <= len(stop) <= LONGEST_STOP:
            raise refused(
                "length", f"a stop string has {len(stop)} characters; expected 1 to {LONGEST_STOP}"
            )
    return value


Zero = Annotated[float, only(0), Field(json_schema_extra={"enum": [0]})]
Off = Annotated[bool, only(False), Field(json_schema_extra={"enum": [False]})]
NoObject = Annotated[dict[str, Any], only({}), Field(json_schema_extra={"maxProperties": 0})]
NoList = Annotated[list[Any], only([]), Field(json_schema_extra={"maxItems": 0})]
NoTools = Annotated[
    list[Any],
    only([], why="this server does not call tools; leave it out"),
    Field(json_schema_extra={"maxItems": 0}),
]

_StopText = Annotated[str, Field(json_schema_extra={"minLength": 1, "maxLength": LONGEST_STOP})]
_StopTexts = Annotated[list[_StopText], Field(json_schema_extra={"maxItems": MAX_STOPS})]
Stop = Annotated[_StopText | _StopTexts | None, BeforeValidator(_few_stops), AfterValidator(_stops)]

Tokens = Annotated[int, Field(ge=1, le=2**31 - 1)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[
    int,
    Field(
        ge=0, le=2**31 - 1, description="Sample from the top_k likeliest tokens; 0 for all tokens."
    ),
]
Seed = Annotated[int, Field(ge=-SEEDS, lt=SEEDS)]
Hint = Annotated[str, Field(description="Accepted for compatibility and ignored.")]


class StreamOptions(RequestModel):
    include_usage: bool | None = None
    include_obfuscation: Off | None = None


class PromptTokensDetails(ResponseModel):
    cached_tokens: int = Field(description="Prompt tokens whose keys and values were reused.")


class Usage(ResponseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ReadUsage(ResponseModel):
    """Token counts of a request that generates no text."""

    prompt_tokens: int
    total_tokens: int


FinishReason = Literal["stop", "length"]
