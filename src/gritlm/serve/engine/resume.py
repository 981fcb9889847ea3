"""Prefill by the code of requests, such as the engine of cached RAG: alone, or in common passes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gritlm.lm.side_by_side import PASS_TOKENS
from gritlm.serve.engine.errors import RequestCancelledError, RequestInterruptedError
from gritlm.serve.engine.queue import QueuedRequest
from gritlm.serve.engine.requests import JointPrefill, ResumeRequest

if TYPE_CHECKING:
    from gritlm.rag.prefill import PrefilledPrompt

log = logging.getLogger(__name__)

# A request in the queue, with its content.
Resumed = tuple[QueuedRequest, ResumeRequest]


def shares_passes(
    group: Sequence[ResumeRequest], request: ResumeRequest, *, most_tokens: int
) -> bool:
    """Return whether a request shares the passes of a group, and whether that is faster.

    Args:
        group: requests that are prefilled together.
        request: another request.
        most_tokens: most tokens of a pass, padding included.
    """
    first = group[0]
    joint = [each.joint for each in (*group, request) if each.joint is not None]
    if len(joint) <= len(group) or any(each.run != joint[0].run for each in joint):
        return False
    if request.model is not first.model:
        return False
    padded = _padded_tokens(joint)
    saved = PASS_TOKENS * (len(joint) - 1)
    return padded <= min(most_tokens, sum(each.rows * each.tokens for each in joint) + saved)


def _padded_tokens(joint: Sequence[JointPrefill]) -> int:
    return sum(each.rows for each in joint) * max(each.tokens for each in joint)


def read_prompts(
    group: Sequence[Resumed], checkpoint: Callable[[QueuedRequest], None]
) -> list[PrefilledPrompt | Exception]:
    """Prefill the prompts of requests by their code; an error ends its own request only.

    Args:
        group: a request, or several that share their passes.
        checkpoint: called with a request of the group where other requests may go on.

    Returns:
        The KV state of each prompt, or the error of its request.
    """
    if len(group) > 1:
        joint = [request.joint for _, request in group if request.joint is not None]
        queued = [each for each, _ in group]
        try:
            items = [each.item for each in joint]
            return list(joint[0].run(items, lambda: _checkpoint(queued, checkpoint)))
        except (RequestCancelledError, RequestInterruptedError) as error:
            return [error] * len(group)
        except Exception as error:
            log.warning(
                "the prefill of %d requests together failed (%s); each is alone", len(group), error
            )
    return [_read_alone(*each, checkpoint) for each in group]


def _checkpoint(
    queued: Sequence[QueuedRequest], checkpoint: Callable[[QueuedRequest], None]
) -> None:
    """Let other requests go on, for the first request that is not cancelled.

    Raises:
        RequestCancelledError: when all are cancelled.
    """
    for each in queued:
        try:
            if not each.cancelled:
                return checkpoint(each)
        except RequestCancelledError:  # since the line above
            continue
    raise RequestCancelledError


def _read_alone(
    queued: QueuedRequest, request: ResumeRequest, checkpoint: Callable[[QueuedRequest], None]
) -> PrefilledPrompt | Exception:
    if queued.cancelled:
        return RequestCancelledError()
    try:
        return request.begin(lambda: checkpoint(queued))
    except Exception as error:
        return error
