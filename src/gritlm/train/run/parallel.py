"""Wrapping of the trained module for one process, DDP or FSDP2.

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

from gritlm.errors import TrainingError, one_line
from gritlm.train.config import TrainingConfig
from gritlm.train.model.module import Trainee
from gritlm.train.run import collectives


@contextmanager
def processes(timeout_s: float) -> Iterator[None]:
    """Open the process group of torchrun for the length of a block, unless one is open.

    Args:
        timeout_s: seconds after which a process that waits for another one stops with an error.

    Raises:
        TrainingError: another process has ended or does not answer in time.
    """
    described = int(os.environ.get("WORLD_SIZE", "1")) > 1
    opens = described and not dist.is_initialized()
    with collectives.group(None, timeout_s=timeout_s) if opens else nullcontext():
        try:
            yield
        except RuntimeError as error:
            if not collectives.together() or not _is_group_error(error):
                raise
            raise TrainingError(
                f"another process is gone or did not answer within {timeout_s:g} s, so process "
                f"{collectives.rank()} stops too; look at the log of the process that ended first "
                f"({one_line(error, limit=200)})"
            ) from error
        finally:
            gc.collect()  # DDP and FSDP hold threads of the group: free them before it closes


def local_device(training: TrainingConfig) -> str | None:
    """Return the device a process loads the model to: its own GPU, unless the run names one.

    With FSDP2 the model is loaded into main memory; each layer moves to the GPUs when it is
    sharded, so that no GPU holds the whole model.
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
    """Return the module to call in training: ``trainee`` itself, or wrapped by DDP or FSDP2."""
    if not collectives.together():
        return trainee
    if training.distribution == "ddp":
        # If both objectives are trained, the last pass of a step is generative: no projection.
        unused = trainee.projection is not None and training.mode == "unified"
        return DistributedDataParallel(trainee, find_unused_parameters=unused)
    on_gpu = torch.cuda.is_available() and training.device != "cpu"
    device_type = "cuda" if on_gpu else "cpu"
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    low_precision = bf16 and device_type == "cuda"
    policy = (
        MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        if low_precision
        else MixedPrecisionPolicy()
    )
    for layer in trainee.decoder.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    # The root stays unsharded between forward and backward: the loss uses its LM head.
    sharded = fully_shard(trainee, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    if trainee.frozen is not None:
        # Its embeddings and LM head stay whole: the loss reads the head on its own.
        for layer in trainee.frozen.base_model.layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        trainee.frozen.to(trainee.device)
    return sharded


def unsynced(module: Any) -> AbstractContextManager[object]:
    """Return a context without gradient averaging (DDP; FSDP2 averages every time and adds)."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def is_sharded(module: Any) -> bool:
    return isinstance(module, FSDPModule)


def is_main() -> bool:
    """Return whether this process is the one that writes files and logs."""
    return collectives.rank() == 0


def _is_group_error(error: RuntimeError) -> bool:
    message = str(error).lower()
    words = ("gloo", "nccl", "connection closed", "connection reset", "timed out")
    return isinstance(error, dist.DistError) or any(word in message for word in words)
