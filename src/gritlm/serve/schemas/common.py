"""Field types and models that several endpoints share: unsupported values, token counts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from gritlm.serve.schemas.base import RequestModel, ResponseModel, refused


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


Off = Annotated[bool, only(False), Field(json_schema_extra={"enum": [False]})]


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
