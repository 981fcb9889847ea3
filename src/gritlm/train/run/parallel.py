"""One module on one process, or copied (DDP) or spread (FSDP2) over those that torchrun started.

torch's own wrappers are called directly: accelerate refuses FSDP2 on CPUs, where the tests run it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from gritlm.errors import TrainingError
from gritlm.train.config import TrainingConfig
from gritlm.train.model.module import Trainee
from gritlm.train.run import collectives


@contextmanager
def processes(timeout_s: float) -> Iterator[None]:
    """The process group that torchrun describes, if there is one and none has been made.

    Raises:
        TrainingError: when another process is gone or does not answer in time.
    """
    described = int(os.environ.get("WORLD_SIZE", "1")) > 1
    made = described and not dist.is_initialized()
    with collectives.group(None, timeout_s=timeout_s) if made else nullcontext():
        try:
            yield
        except RuntimeError as error:
            if not collectives.together() or not _is_of_the_group(error):
                raise
            raise TrainingError(
                f"another process is gone or did not answer within {timeout_s:g} s, so process "
                f"{collectives.rank()} stops too; look at the log of the one that ended first "
                f"({' '.join(str(error).split())[:200]})"
            ) from error
        finally:
            gc.collect()  # DDP and FSDP hold threads of the group: they must go before it does


def local_device(training: TrainingConfig) -> str | None:
    """Where a process loads the model: its own GPU among several, unless a device is asked for.

    What is going to be spread (FSDP2) is loaded into main memory: each layer moves to the GPUs when
    it is spread, so that no GPU has to hold the whole model.
    """
    if (
        training.device not in (None, "cuda")
        or not torch.cuda.is_available()
        or not collectives.together()
    ):
        return training.device
    number = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(number)
    return "cpu" if training.distribution == "fsdp" else f"cuda:{number}"


def wrapped(trainee: Trainee, training: TrainingConfig, *, bf16: bool) -> Any:
    """The module to call in training: ``trainee`` itself, or DDP or FSDP2 around it."""
    if not collectives.together():
        return trainee
    if training.distribution == "ddp":
        # The last pass of a step writes, where both halves are trained: without the projection.
        unused = trainee.projection is not None and training.mode == "unified"
        return DistributedDataParallel(trainee, find_unused_parameters=unused)
    on_gpu = torch.cuda.is_available() and training.device != "cpu"
    kind = "cuda" if on_gpu else "cpu"
    mesh = init_device_mesh(kind, (dist.get_world_size(),))
    half = bf16 and kind == "cuda"
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if half else MixedPrecisionPolicy()
    for layer in trainee.decoder.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    # The root stays whole from its forward to its backward pass: the loss reads its LM head.
    spread = fully_shard(trainee, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    trainee.move_frozen(trainee.device)
    return spread


def unsynced(module: Any) -> AbstractContextManager[object]:
    """Gradients are not averaged yet inside of it (DDP; FSDP2 averages every time, and adds)."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def is_sharded(module: Any) -> bool:
    return isinstance(module, FSDPModule)


def is_main() -> bool:
    """Whether this process writes files and talks."""
    return collectives.rank() == 0


def _is_of_the_group(error: RuntimeError) -> bool:
    said = str(error).lower()
    words = ("gloo", "nccl", "connection closed", "connection reset", "timed out")
    return isinstance(error, dist.DistError) or any(word in said for word in words)
