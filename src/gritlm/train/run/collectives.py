"""What processes that train together tell each other.

With gradients averaged over the processes, as DDP and FSDP do, what is minimised is the mean of the
losses of all processes. A loss over gathered vectors is the same in each, so loss and gradient do
not depend on their number. (The reference gathered without gradient, which scaled it by 1 / W.)

Shapes: n vectors of this process, N of all W processes, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gritlm.train.objectives.gradcache import Ranks


def ranks(unsynced: Callable[[], AbstractContextManager[object]] = nullcontext) -> Ranks:
    """What GradCache needs to know of the others; for one process when there are no others.

    Args:
        unsynced: ``DDP.no_sync``, so that gradients are averaged once a step.
    """
    if not together():
        return Ranks()
    return Ranks(gather=gather, most=most, unsynced=unsynced)


def together() -> bool:
    """Whether this process belongs to a group of at least two."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather(vectors_nD: Tensor) -> Tensor:
    """Vectors of all processes in the order of their ranks -> (N, D), with gradient.

    Processes may hold different numbers of vectors.
    """
    return _Gather.apply(vectors_nD, _counts(vectors_nD)) if together() else vectors_nD


def gathered(values_n: Tensor) -> Tensor:
    """Values of all processes that have no gradient: document ids, teachers' scores -> (N, ...)."""
    if not together():
        return values_n
    return torch.cat(_all_gather(values_n, _counts(values_n)))


def most(count: int) -> int:
    """The largest of the counts of all processes."""
    return int(_reduced(count, dist.ReduceOp.MAX))


def total(count: int) -> int:
    """The sum of the counts of all processes."""
    return int(_reduced(count, dist.ReduceOp.SUM))


def mean(value: float) -> float:
    """The mean of a number over all processes."""
    if not together():
        return value
    return float(gathered(torch.tensor([value], dtype=torch.float64)).mean())


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if together() else 0


def size() -> int:
    """How many processes train together."""
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
    """A process group for the length of a block; by default as torchrun describes it.

    Args:
        backend: None: one for each kind of device there is.
        timeout_s: a process that waits longer for another one stops with an error.
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
        """Each process's loss depends on these vectors: the slopes of all are summed."""
        slope_ND = slopes[0].contiguous().clone()
        dist.all_reduce(slope_ND)
        return slope_ND.split(ctx.counts)[dist.get_rank()], None


def _counts(values_n: Tensor) -> list[int]:
    own = torch.tensor([len(values_n)], device=values_n.device)
    counts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    return [int(count) for count in counts]


def _all_gather(values_n: Tensor, counts: list[int]) -> list[Tensor]:
    """One tensor a process; padded on the way, since collectives want one shape."""
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
