"""Request and response fields of function calling, as in OpenAI's chat completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from gritlm.lm.tools.definitions import MAX_TOOLS
from gritlm.serve.schemas.base import Hint, RequestModel, ResponseModel
from gritlm.serve.schemas.common import only
from gritlm.serve.schemas.structured_output import Schema

MAX_CALLS = 128  # of a message

ToolType = Annotated[
    str,
    only("function", why="this server calls functions only; expected 'function'"),
    Field(json_schema_extra={"enum": ["function"]}),
]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class FunctionDefinition(RequestModel):
    """A function; its arguments always follow its schema.

    With ``strict`` true, keywords that cannot be enforced are refused instead of ignored.
    """

    name: Name
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class ToolDefinition(RequestModel):
    type: ToolType
    function: FunctionDefinition


Tools = Annotated[list[ToolDefinition], Field(fail_fast=True, max_length=MAX_TOOLS)]


class FunctionName(RequestModel):
    name: Name


class ToolChoiceField(RequestModel):
    """Choice of a tool: a word, or the name of a function."""

    type: Literal["auto", "none", "required", "function"]
    function: FunctionName | None = None


def _as_object(value: Any) -> Any:
    """Return a choice that is a word as an object."""
    return {"type": value} if isinstance(value, str) else value


_NAMED = {
    "type": "object",
    "properties": {
        "type": {"enum": ["function"]},
        "function": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
        },
    },
    "required": ["type", "function"],
}
ToolChoiceOption = Annotated[
    ToolChoiceField,
    BeforeValidator(_as_object),
    WithJsonSchema({"anyOf": [{"enum": ["auto", "none", "required"]}, _NAMED]}),
]


class FunctionCall(RequestModel):
    name: Name
    arguments: str


class RequestToolCall(RequestModel):
    """A call that the assistant made earlier in the conversation."""

    id: str = Field(min_length=1, max_length=256)
    type: ToolType
    function: FunctionCall
    index: Hint = None


RequestToolCalls = Annotated[list[RequestToolCall], Field(fail_fast=True, max_length=MAX_CALLS)]


class ResponseFunction(ResponseModel):
    name: str
    arguments: str = Field(description="A JSON object, unless the answer was cut.")


class ResponseToolCall(ResponseModel):
    id: str
    type: Literal["function"]
    function: ResponseFunction


class FunctionDelta(ResponseModel):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(ResponseModel):
    """A piece of a call; the first one of each call has id, type and name."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta
