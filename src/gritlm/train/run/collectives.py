"""Collective operations of the processes of a run.

DDP and FSDP average gradients over the processes, so the mean of the losses of all processes is
minimised. A loss over gathered vectors is the same in each process, so loss and gradient do not
depend on the number of processes. (The reference gathered without gradient, which scaled the
gradient by 1 / W.)

Shapes: n vectors of this process, N of all W processes, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gritlm.errors import GritLMError, TrainingError, one_line
from gritlm.train.objectives.gradcache import Ranks

T = TypeVar("T")


def ranks(unsynced: Callable[[], AbstractContextManager[object]] = nullcontext) -> Ranks:
    """Return the collective operations that GradCache uses; no-ops for a single process.

    Args:
        unsynced: returns a context without gradient synchronisation (``DDP.no_sync``), so that
            gradients are averaged once a step.
    """
    if not together():
        return Ranks()
    return Ranks(gather=gather, most=most, unsynced=unsynced)


def together() -> bool:
    """Return whether this process belongs to a group of at least two."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather(vectors_nD: Tensor) -> Tensor:
    """Return the vectors of all processes, ordered by rank (N, D), with gradient.

    Processes may hold different numbers of vectors.
    """
    return _Gather.apply(vectors_nD, _counts(vectors_nD)) if together() else vectors_nD


def gathered(values_n: Tensor) -> Tensor:
    """Return values of all processes without gradient, ordered by rank (N, ...)."""
    if not together():
        return values_n
    return torch.cat(_all_gather(values_n, _counts(values_n)))


def most(count: int) -> int:
    """Return the maximum of a count over all processes."""
    return int(_reduced(count, dist.ReduceOp.MAX))


def total(count: int) -> int:
    """Return the sum of a count over all processes."""
    return int(_reduced(count, dist.ReduceOp.SUM))


def mean(value: float) -> float:
    """Return the mean of a number over all processes."""
    if not together():
        return value
    return float(gathered(torch.tensor([value], dtype=torch.float64)).mean())


def from_main(make: Callable[[], T]) -> T:
    """Return a value that the main process computes, in every process.

    Args:
        make: called in the main process; its value is sent to the others.

    Raises:
        GritLMError: the error of the main process, in every process.
    """
    if not together():
        return make()
    found: list[Any] = [None, None]
    raised: Exception | None = None
    if rank() == 0:
        try:
            found[0] = make()
        except Exception as error:  # the others must not wait for the value
            raised = error
            known = isinstance(error, GritLMError)
            found[1] = error if known else TrainingError(one_line(error, limit=300))
    dist.broadcast_object_list(found, src=0)
    if raised is not None or found[1] is not None:
        raise raised or found[1]
    value: T = found[0]
    return value


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if together() else 0


def size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if together() else 1


@contextmanager
def group(
    backend: str | None = "gloo",
    *,
    timeout_s: float = 600,
    init_method: str | None = None,
    rank: int = -1,
    size: int = -1,
) -> Iterator[None]:
    """Open a process group for the length of a block; by default the one of torchrun.

    Args:
        backend: backend of ``torch.distributed``; None: one for each available device type.
        timeout_s: seconds after which a process that waits for another one stops with an error.
        init_method: URL where processes find each other; None: environment variables of torchrun.
        rank: rank of this process; -1: from the environment.
        size: number of processes; -1: from the environment.
    """
    dist.init_process_group(
        backend,
        init_method=init_method,
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout_s),
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors_nD: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        return torch.cat(_all_gather(vectors_nD, counts))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        """Sum the gradients of all processes, since each loss depends on these vectors."""
        slope_ND = slopes[0].contiguous().clone()
        dist.all_reduce(slope_ND)
        return slope_ND.split(ctx.counts)[dist.get_rank()], None


def _counts(values_n: Tensor) -> list[int]:
    own = torch.tensor([len(values_n)], device=values_n.device)
    counts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    return [int(count) for count in counts]


def _all_gather(values_n: Tensor, counts: list[int]) -> list[Tensor]:
    """Return the tensor of each process; padded for the transfer, which needs equal shapes."""
    padded = values_n.new_zeros(max(counts), *values_n.shape[1:])
    padded[: len(values_n)] = values_n.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return [part[:count] for part, count in zip(parts, counts, strict=True)]


def _reduced(count: int, how: Any) -> Tensor:
    device = "cuda" if together() and dist.get_backend() == "nccl" else "cpu"
    value = torch.tensor(count, device=device)
    if together():
        dist.all_reduce(value, how)
    return value
