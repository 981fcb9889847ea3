"""Field types and models that several endpoints share: stop strings, sampling, token counts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from gritlm.serve.config import MAX_STOPS
from gritlm.serve.schemas.base import RequestModel, ResponseModel, refused

LONGEST_STOP = 256  # characters
SEEDS = 2**63


def null_only(why: str) -> BeforeValidator:
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
