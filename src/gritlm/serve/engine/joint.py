"""Work of requests by other code, such as the engine of cached RAG: alone, or in common passes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gritlm.lm.side_by_side import PASS_TOKENS
from gritlm.serve.engine.errors import RequestCancelledError, RequestInterruptedError
from gritlm.serve.engine.queue import QueuedRequest
from gritlm.serve.engine.requests import JointRun

log = logging.getLogger(__name__)

Checkpoint = Callable[[], None]


@dataclass(frozen=True)
class Work:
    """The work of a request.

    Attributes:
        queued: the request.
        alone: does the work alone.
        joint: the work together with that of other requests; None for work that is done alone.
    """

    queued: QueuedRequest
    alone: Callable[[Checkpoint], Any]
    joint: JointRun | None


def shares_passes(
    group: Sequence[JointRun | None], other: JointRun | None, *, most_tokens: int
) -> bool:
    """Return whether a request shares the passes of a group, and whether that is faster.

    Args:
        group: requests that run together.
        other: another request.
        most_tokens: most tokens of a pass, padding included.
    """
    joint = [each for each in (*group, other) if each is not None]
    if len(joint) <= len(group) or any(each.run != joint[0].run for each in joint):
        return False
    padded = sum(each.rows for each in joint) * max(each.tokens for each in joint)
    saved = PASS_TOKENS * (len(joint) - 1)
    return padded <= min(most_tokens, sum(each.rows * each.tokens for each in joint) + saved)


def run_together(
    group: Sequence[Work], checkpoint: Callable[[QueuedRequest], None]
) -> list[Any | Exception]:
    """Do the work of a request, or of several that share passes; an error ends its request only.

    Args:
        group: the work of each request.
        checkpoint: called with a request of the group where other requests may go on.

    Returns:
        The result of each request, or its error.
    """
    joint = [each.joint for each in group if each.joint is not None]
    if len(group) > 1:
        queued = [each.queued for each in group]
        try:
            items = [each.item for each in joint]
            return list(joint[0].run(items, lambda: _checkpoint(queued, checkpoint)))
        except (RequestCancelledError, RequestInterruptedError) as error:
            return [error] * len(group)
        except Exception as error:
            log.warning("%d requests together failed (%s); each runs alone", len(group), error)
    return [_run_alone(work, checkpoint) for work in group]


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


def _run_alone(work: Work, checkpoint: Callable[[QueuedRequest], None]) -> Any | Exception:
    if work.queued.cancelled:
        return RequestCancelledError()
    try:
        return work.alone(lambda: checkpoint(work.queued))
    except Exception as error:
        return error
