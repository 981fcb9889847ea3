"""Function calling in chats: tools and calls of a request, calls of a response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gritlm.errors import InputError
from gritlm.lm.tools.call_format import CallFormat
from gritlm.lm.tools.call_parser import CallParser, CallPiece, Pieces
from gritlm.lm.tools.definitions import Tool, ToolChoice, chosen, require_tools
from gritlm.printable import excerpt
from gritlm.serve.errors import invalid
from gritlm.serve.schemas.base import ignore
from gritlm.serve.schemas.chat_completions import ChatCompletionRequest, RequestMessage
from gritlm.serve.schemas.tools import ToolChoiceField, ToolDefinition


def tools_of(body: ChatCompletionRequest) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    """Return the tools of a request that its prompt lists, and the calls its answer may have.

    Raises:
        ApiError: for invalid tools, or a choice that does not fit them.
    """
    tools = tuple(_tool(each) for each in body.tools or ())
    option = body.tool_choice or ToolChoiceField(type="auto")
    named = option.function if option.type == "function" else None
    if option.type == "function" and named is None:
        raise invalid("'tool_choice.function' is missing", param="tool_choice.function")
    choice = option.type if named is None else named.name
    try:
        require_tools(tools)
    except InputError as error:
        raise invalid(f"'tools': {error}", param="tools") from None
    parallel = body.parallel_tool_calls is not False
    if not tools and body.parallel_tool_calls is not None:
        ignore("parallel_tool_calls")
    try:
        calls = chosen(tools, choice, named=named is not None, parallel=parallel)
    except InputError as error:
        raise invalid(f"'tool_choice': {error}", param="tool_choice") from None
    return (tools, calls) if calls is not None else ((), None)


def turns_of(messages: Sequence[RequestMessage]) -> list[dict[str, Any]]:
    """Return the turns of a conversation, after a check that results follow their calls.

    Raises:
        ApiError: for the result of a call that is not in the conversation.
    """
    known: set[str] = set()
    for index, message in enumerate(messages):
        known |= {call.id for call in message.tool_calls or ()}
        if message.role == "tool" and message.tool_call_id not in known:
            call = excerpt(str(message.tool_call_id))
            raise invalid(
                f"message {index} is the result of the call '{call}', and no message of "
                "the assistant before it has this call",
                param=f"messages[{index}].tool_call_id",
            )
    return [message.as_turn() for message in messages]


@dataclass
class ToolCalls:
    """The tool calls of one answer, while it is generated.

    Attributes:
        call_format: format of the calls.
    """

    call_format: CallFormat
    _ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._parser = CallParser(self.call_format)

    @property
    def count(self) -> int:
        """Number of calls so far."""
        return len(self._ids)

    def delta(self, text: str, *, last: bool) -> dict[str, Any]:
        """Return the delta of a stream for new text.

        Args:
            text: the new text.
            last: whether the answer ends with it.
        """
        pieces = [self._parser.push(text)]
        if last:
            pieces.append(self._parser.close())
        found: dict[str, Any] = {}
        if content := "".join(each.content for each in pieces):
            found["content"] = content
        if calls := [self._as_delta(call) for each in pieces for call in each.calls]:
            found["tool_calls"] = calls
        return found

    def message(self, text: str) -> dict[str, Any]:
        """Return content and calls of a complete answer."""
        pieces = [self._parser.push(text), self._parser.close()]
        content = "".join(each.content for each in pieces)
        calls = [self._whole(index, pieces) for index in range(self._parser.count)]
        self._ids = [call["id"] for call in calls]
        return {"content": content or None, "tool_calls": calls} if calls else {"content": content}

    def _as_delta(self, call: CallPiece) -> dict[str, Any]:
        if call.name is None:
            return {"index": call.index, "function": {"arguments": call.arguments}}
        self._ids.append(self.call_format.new_id())
        return {
            "index": call.index,
            "id": self._ids[-1],
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }

    def _whole(self, index: int, pieces: Sequence[Pieces]) -> dict[str, Any]:
        parts = [call for each in pieces for call in each.calls if call.index == index]
        arguments = "".join(part.arguments for part in parts)
        function = {"name": parts[0].name, "arguments": arguments}
        return {"id": self.call_format.new_id(), "type": "function", "function": function}


def _tool(definition: ToolDefinition) -> Tool:
    function = definition.function
    given = {} if function.parameters is None else {"parameters": function.parameters}
    return Tool(function.name, function.description, strict=function.strict is True, **given)
