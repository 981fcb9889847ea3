"""Processes of a run: their group, their devices, and the module for one of them or DDP.

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
from torch.distributed.fsdp import FSDPModule
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

    With FSDP2 the main process loads the model into main memory, and each parameter is sent from
    there to the GPUs, so that no GPU holds the whole model.
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


def shards(training: TrainingConfig) -> bool:
    """Return whether the weights are sharded over the processes."""
    return collectives.together() and training.distribution == "fsdp"


def wrapped(trainee: Trainee, training: TrainingConfig) -> Any:
    """Return the module to call in training: wrapped by DDP, or ``trainee`` itself."""
    if not collectives.together() or is_sharded(trainee):
        return trainee
    # If both objectives are trained, the last pass of a step is generative: no projection.
    unused = trainee.projection is not None and training.mode == "unified"
    return DistributedDataParallel(trainee, find_unused_parameters=unused)


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
