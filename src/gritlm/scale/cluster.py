"""Connection to a Ray cluster, or a Ray of this process alone; its errors in one line."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gritlm.errors import GritLMError, first_line, one_line
from gritlm.scale import ray_library

NAMESPACE = "gritlm"  # of named actors, which all jobs of a cluster see
_VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


class ClusterError(GritLMError, RuntimeError):
    """A Ray cluster that cannot be reached, or work on it that failed."""


@dataclass(frozen=True)
class Devices:
    """Devices of a cluster.

    Attributes:
        gpus: number of GPUs of all nodes.
        cpus: number of CPUs of all nodes.
    """

    gpus: int
    cpus: int


@contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Connect to Ray while the block runs; a connection that exists already is used and kept.

    Args:
        address: address of the cluster, ``auto`` for the one of this machine; None starts a Ray of
            this process alone, unless the variable RAY_ADDRESS names a cluster.

    Raises:
        MissingExtraError: without Ray.
        ClusterError: for a cluster that cannot be reached or runs another version.
    """
    ray_library.require()
    # Unless the user has chosen otherwise, nothing is reported to the authors of Ray.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # the rest is in the logs of Ray
    import ray

    if ray.is_initialized():
        yield
        return
    alone = address is None and not os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {"include_dashboard": False} if alone else {}
    try:
        ray.init(
            # Without an address Ray would join any cluster that it finds on this machine.
            address="local" if alone else address,
            namespace=NAMESPACE,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **local,
        )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise ClusterError(_reason(error, address)) from None
    try:
        yield
    finally:
        ray.shutdown()


def devices() -> Devices:
    """Return the devices of the connected cluster."""
    import ray

    found = ray.cluster_resources()
    return Devices(gpus=int(found.get("GPU", 0)), cpus=max(1, int(found.get("CPU", 1))))


def cause(error: BaseException) -> BaseException | None:
    """Return the error that a worker raised, out of the errors that Ray puts around it.

    Args:
        error: error of a call of Ray.
    """
    seen: BaseException | None = error
    while seen is not None:
        # Ray's own error comes first: its class is derived from that of the error in it too.
        inner = getattr(seen, "cause", None)
        if isinstance(inner, BaseException):
            seen = inner
        elif isinstance(seen, GritLMError):
            return seen
        else:
            seen = seen.__cause__
    return None


def explain(error: Exception, doing: str) -> GritLMError:
    """Return an error of Ray as one line: the error of the worker itself if it is one of ours.

    Args:
        error: error of a call of Ray.
        doing: the work that failed, for the message.
    """
    found = cause(error)
    if isinstance(found, GritLMError):
        return type(found)(str(found)) if type(found).__init__ is Exception.__init__ else found
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [
        line for line in lines if re.match(r"^(gritlm|torch|[A-Za-z]\w*(Error|Exception)\b)", line)
    ]
    reason = one_line(named[-1] if named else first_line(error), limit=300)
    return ClusterError(f"{doing} failed: {reason}; the logs of Ray have the whole traceback")


def _reason(error: Exception, address: str | None) -> str:
    """Return the message for a cluster that cannot be reached."""
    place = one_line(address or os.environ.get("RAY_ADDRESS") or "this machine", limit=100)
    versions = _VERSIONS.findall(str(error))
    if len(versions) == 2:
        (theirs, their_python), (ours, our_python) = versions
        return (
            f"the cluster at {place} runs Ray {theirs} on Python {their_python}, this process Ray "
            f"{ours} on Python {our_python}; install the same versions, e.g. "
            f"pip install 'ray[data,serve,train]=={theirs}'"
        )
    return (
        f"no Ray cluster at {place}: {first_line(error, limit=200)}; start one with "
        "ray start --head, or set RAY_AUTH_MODE=token if it asks for a token; without an address "
        "this machine is used alone"
    )
