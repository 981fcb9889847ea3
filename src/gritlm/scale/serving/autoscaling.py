"""Autoscaling policy of Ray Serve: replicas by the waiting tokens and the running requests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

WAITING = "waiting_tokens"
RUNNING = "running_requests"


def wanted(
    waiting: Mapping[Any, float],
    running: Mapping[Any, float],
    *,
    tokens: int,
    sequences: int,
    current: int,
) -> int:
    """Return the number of replicas that a load needs.

    One more is wanted for each ``tokens`` tokens that wait; fewer are wanted only if they have KV
    slots for all running requests.

    Args:
        waiting: waiting tokens of each replica.
        running: running requests of each replica.
        tokens: waiting tokens that one replica may have.
        sequences: requests that one replica runs.
        current: replicas that run now.
    """
    queued = sum(waiting.values())
    if queued > tokens * max(1, current):
        return max(current + 1, math.ceil(queued / tokens))
    slots = math.ceil(sum(running.values()) / sequences)
    return min(current, max(slots, math.ceil(queued / tokens))) if current else max(1, slots)


class WaitingTokens:
    """The policy, as Ray Serve's controller makes and calls it.

    Args:
        tokens: waiting tokens that one replica may have.
        sequences: requests that one replica runs.
    """

    def __init__(self, tokens: int, sequences: int) -> None:
        self._tokens = tokens
        self._sequences = sequences

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        metrics = context.aggregated_metrics or {}
        count = wanted(
            metrics.get(WAITING, {}),
            metrics.get(RUNNING, {}),
            tokens=self._tokens,
            sequences=self._sequences,
            current=context.target_num_replicas,
        )
        return count, {}
