"""Tools that a model may call, and the choice that it has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gritlm.errors import InputError, did_you_mean
from gritlm.printable import excerpt

MAX_TOOLS = 128  # as in OpenAI's API
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")

_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}

Mode = Literal["auto", "none", "required"]


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: its name.
        description: its purpose, for the model.
        parameters: JSON schema of its arguments, an object.
        strict: whether to refuse a schema with keywords that cannot be enforced.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=lambda: dict(_NO_PARAMETERS))
    strict: bool = False

    def as_openai(self) -> dict[str, Any]:
        """Return the tool in the form of OpenAI's API, as chat templates expect it."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        return {"type": "function", "function": function | {"parameters": dict(self.parameters)}}


@dataclass(frozen=True)
class ToolChoice:
    """The calls that an answer may or must have.

    Attributes:
        tools: tools that can be called; those of the prompt, or the required one alone.
        required: whether the answer has to be calls.
        parallel: whether it may have several calls.
    """

    tools: tuple[Tool, ...]
    required: bool = False
    parallel: bool = True


def require_tools(tools: Sequence[Tool]) -> None:
    """Check the names of tools, and that their arguments are objects.

    Raises:
        InputError: for too many tools, an invalid name, a name that two tools have, or parameters
            that are no object.
    """
    if len(tools) > MAX_TOOLS:
        raise InputError(f"{len(tools)} tools; expected at most {MAX_TOOLS}")
    seen: set[str] = set()
    for tool in tools:
        if not _NAME.fullmatch(tool.name):
            raise InputError(
                f"a tool has the name '{excerpt(tool.name, 80)}'; expected 1 to 64 letters, "
                "digits, dots, dashes and underscores"
            )
        if tool.name in seen:
            raise InputError(f"two tools have the name '{tool.name}'; rename one of them")
        seen.add(tool.name)
        kind = excerpt(str(tool.parameters.get("type", "object")), 80)
        if kind != "object":
            raise InputError(
                f"the parameters of the tool '{tool.name}' have the type '{kind}'; "
                "expected the schema of an object"
            )


def chosen(
    tools: Sequence[Tool], choice: Mode | str, *, named: bool = False, parallel: bool = True
) -> ToolChoice | None:
    """Return the calls that an answer may have; None for no calls.

    Args:
        tools: the tools of the request, as :func:`require_tools` accepts them.
        choice: ``auto``, ``none``, ``required``, or the name of the tool to call.
        named: whether ``choice`` is the name of a tool.
        parallel: whether an answer may have several calls.

    Raises:
        InputError: for a tool that is not among them, or required calls without tools.
    """
    if named:
        for tool in tools:
            if tool.name == choice:
                return ToolChoice((tool,), required=True, parallel=False)
        known = [tool.name for tool in tools]
        hint = did_you_mean(choice, known) if known else "; it has none"
        raise InputError(f"the request has no tool '{excerpt(choice, 80)}'{hint}")
    if choice == "required" and not tools:
        raise InputError("a call is required, and the request has no tools; add some")
    if choice == "none" or not tools:
        return None
    return ToolChoice(tuple(tools), required=choice == "required", parallel=parallel)
