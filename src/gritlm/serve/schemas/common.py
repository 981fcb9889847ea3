"""What several bodies share. Fields that nobody reads are refused, never ignored."""

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
MAX_FIELDS = 256  # of an object; each unknown one costs time to say so


def _allow_nulls(schema: dict[str, Any]) -> None:
    """Say in a schema that fields may be null; also those that do not exist."""
    null = {"type": "null"}
    schema["additionalProperties"] = null
    for name, field in schema.get("properties", {}).items():
        required = name in schema.get("required", ())
        if required or field.get("type") == "null" or null in field.get("anyOf", ()):
            continue
        about = {key: field[key] for key in ("title", "description", "default") if key in field}
        kind = {key: value for key, value in field.items() if key not in about}
        schema["properties"][name] = {**about, "anyOf": [kind, null]}


class RequestModel(BaseModel):
    """A request: types as they are, no unknown fields, no NaN; null is as good as left out."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        json_schema_extra=_allow_nulls,
    )

    @model_validator(mode="before")
    @classmethod
    def _present(cls, given: Any) -> Any:
        return _without_nulls(bounded(given), cls.model_fields)


class ResponseModel(BaseModel):
    """An answer; only described with these models, they are not checked on their way out."""

    model_config = ConfigDict(protected_namespaces=())


class ErrorDetail(ResponseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(ResponseModel):
    error: ErrorDetail


def refused(type: str, message: str) -> PydanticCustomError:
    """An error whose words reach the client as they are."""
    return PydanticCustomError(type, "{told}", {"told": message})


def bounded(given: Any) -> Any:
    """Refuse an object of very many fields before each of them is looked at."""
    if isinstance(given, dict) and len(given) > MAX_FIELDS:
        raise refused("too_many", f"{len(given):,} fields; expected at most {MAX_FIELDS}")
    return given


def _without_nulls(given: Any, fields: Mapping[str, FieldInfo]) -> Any:
    """Leave out fields that are null; a field that has to be there is told about instead."""
    if not isinstance(given, dict):
        return given
    return {
        name: value
        for name, value in given.items()
        if value is not None or (name in fields and fields[name].is_required())
    }


def nothing(why: str) -> BeforeValidator:
    """For fields of OpenAI's API that are null here; ``why`` is told to who sends another value."""

    def check(value: Any) -> None:
        if value is not None:
            raise refused("unsupported_value", why)

    return BeforeValidator(check)


def only(*values: Any, why: str | None = None) -> AfterValidator:
    """For fields of OpenAI's API of which we have one value."""

    def check(value: Any) -> Any:
        if value in values:
            return value
        known = " or ".join(repr(each) for each in values)
        raise refused("unsupported_value", why or f"this server has only {known}; leave it out")

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
TopK = Annotated[int, Field(ge=0, le=2**31 - 1, description="0 keeps all tokens.")]
Seed = Annotated[int, Field(ge=-SEEDS, lt=SEEDS)]
Hint = Annotated[str, Field(description="Taken, and nothing follows from it.")]


class StreamOptions(RequestModel):
    include_usage: bool | None = None
    include_obfuscation: Off | None = None


class PromptTokensDetails(ResponseModel):
    cached_tokens: int = Field(description="Whose keys and values were there already.")


class Usage(ResponseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ReadUsage(ResponseModel):
    """Of a request that writes nothing."""

    prompt_tokens: int
    total_tokens: int


FinishReason = Literal["stop", "length"]
