"""Images and sounds of requests: where they are read, and where they are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from gritlm.lm.media.files import MediaRules
from gritlm.lm.tools.definitions import Tool
from gritlm.runtime import in_a_thread_of_its_own
from gritlm.serve.errors import invalid
from gritlm.serve.schemas.chat_completions import RequestMessage
from gritlm.serve.service import Service

T = TypeVar("T")


async def with_media(service: Service, read: Callable[[MediaRules], T], *, most_tokens: int) -> T:
    """Run a function that reads the images and sounds of a request, in a thread for slow files.

    Args:
        service: the service with the model.
        read: the function; the rules that it gets decode in a process of the request.
        most_tokens: most tokens of the images and sounds.
    """

    def run() -> T:
        with service.decoding.rules(most_tokens=most_tokens) as rules:
            return read(rules)

    # Processors multiply matrices.
    return await service.run_in_upload_thread(in_a_thread_of_its_own, run)


def require_plain(messages: Sequence[RequestMessage], tools: Sequence[Tool]) -> None:
    """Refuse tools, calls and their results in a conversation with images or sounds.

    Raises:
        ApiError: for such a conversation.
    """
    if tools or any(each.role == "tool" or each.tool_calls for each in messages):
        raise invalid(
            "the conversation has an image or a sound, and tools or their calls; a prompt with "
            "both is not supported, send one of the two",
            param="messages",
            code="unsupported_value",
        )


def require_texts(messages: Sequence[RequestMessage], purpose: str) -> None:
    """Refuse images and sounds where texts alone are taken.

    Args:
        messages: the messages.
        purpose: subject of the error message: ``an answer from documents``.

    Raises:
        ApiError: for an image or a sound, with its place.
    """
    for index, message in enumerate(messages):
        if message.media:
            raise invalid(
                f"message {index} has an image or a sound; {purpose} takes texts only",
                param=f"messages[{index}].content",
                code="unsupported_value",
            )
