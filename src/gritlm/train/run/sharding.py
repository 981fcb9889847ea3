"""Start of a sharded run: one process loads the weights, and every process gets its shards (FSDP2).

The main process loads a module into main memory. All processes make the same module with
parameters without memory (``meta``), shard it, and receive their shards of one parameter after the
other. The main process frees each parameter that is sent, so it holds the weights once, and the
others hold no more than their shards and one parameter.
"""

from __future__ import annotations

import gc
import io
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from gritlm import runtime
from gritlm.errors import InputError
from gritlm.train.config import TrainConfig
from gritlm.train.model import build
from gritlm.train.model.build import TrainingParts
from gritlm.train.model.module import ReferenceModel, Trainee
from gritlm.train.run import collectives, parallel

_CAPTURING = "transformers.utils.output_capturing"  # module of hooks, in newer versions
_CAPTURES = "_output_capturing_hooks_installed"  # its mark on a model

T = TypeVar("T")
FullWeights = dict[str, Tensor]


def build_sharded(run: TrainConfig, *, weights: Path | None) -> TrainingParts:
    """Load the base in the main process, and shard it over all processes; all of them call it.

    Args:
        run: settings of the run.
        weights: checkpoint with the trained weights, to resume from.

    Returns:
        The module of this process, with its shards, and the other parts.

    Raises:
        InputError: a setting does not fit the model, or its weights cannot be sharded.
        ModelError: a base or adapter cannot be loaded.
    """
    if run.model.qlora:
        raise InputError("[model]: qlora weights cannot be sharded; use distribution = 'ddp'")
    device = parallel.local_device(run.training)
    build.register_attention(run)
    parts, full = _from_main(
        lambda: build.build(run, device=device, weights=weights, complete=False), _trainee
    )
    build.enable_memory_savings(parts.trainee, run)
    shard = _Sharding(run, bf16=parts.bf16)
    shard.trainee(parts.trainee)
    shard.fill(parts.trainee, full)
    if build.needs_reference(run):
        with torch.random.fork_rng():
            reference, full = _from_main(lambda: build.load_reference(run, device), _itself)
        shard.reference(reference)
        shard.fill(reference, full)
        parts.trainee.refer_to(reference)
    return parts


class _Sharding:
    """Sharding of modules over the devices of all processes.

    Args:
        run: settings of the run.
        bf16: whether training runs under autocast to bfloat16.
    """

    def __init__(self, run: TrainConfig, *, bf16: bool) -> None:
        on_gpu = torch.cuda.is_available() and run.training.device != "cpu"
        self._mesh: DeviceMesh = init_device_mesh(
            "cuda" if on_gpu else "cpu", (dist.get_world_size(),)
        )
        low = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        self._policy = low if bf16 and on_gpu else MixedPrecisionPolicy()

    def trainee(self, trainee: Trainee) -> None:
        """Shard the module that is trained."""
        self._shard(trainee.decoder.layers, trainee)

    def reference(self, reference: ReferenceModel) -> None:
        """Shard the reference of the KL divergence."""
        self._shard(reference.model.base_model.layers, reference)

    def _shard(self, layers: Iterable[nn.Module], root: nn.Module) -> None:
        options: dict[str, Any] = {"mesh": self._mesh, "mp_policy": self._policy}
        for layer in layers:
            fully_shard(layer, reshard_after_forward=True, **options)
        # The root stays whole after a pass: the loss uses its LM head.
        fully_shard(root, reshard_after_forward=False, **options)

    def fill(self, module: nn.Module, full: FullWeights) -> None:
        """Give a sharded module memory, and its values.

        Args:
            module: the module, whose buffers have their values.
            full: weights by name in the main process, which are removed; empty in the others.
        """
        buffers = [buffer.clone() for buffer in module.buffers()]
        module.to_empty(device=self._mesh.device_type)
        for buffer, value in zip(module.buffers(), buffers, strict=True):
            buffer.copy_(value)
        for name, parameter in module.named_parameters():
            self._fill(parameter, full.pop(name, None))
        runtime.give_back_memory()

    @torch.no_grad()
    def _fill(self, parameter: nn.Parameter, full: Tensor | None) -> None:
        """Copy the shard of this process out of the parameter of the main process."""
        assert isinstance(parameter, DTensor)
        if full is None:  # its values are not read
            full = torch.empty(
                parameter.shape, dtype=parameter.dtype, device=self._mesh.device_type
            )
        shard = distribute_tensor(full, self._mesh, parameter.placements, src_data_rank=0)
        parameter.to_local().copy_(shard.to_local())


def _from_main(load: Callable[[], T], module: Callable[[T], nn.Module]) -> tuple[T, FullWeights]:
    """Return an object that the main process loads, without the values of its parameters.

    Args:
        load: called in the main process.
        module: returns the module of the object.

    Returns:
        The object, in every process with parameters without memory, and the random state that
        loading leaves; and the values of the parameters by name, in the main process only.
    """
    full: FullWeights = {}

    def loaded() -> tuple[bytes, Tensor]:
        found = load()
        full.update((name, each.detach()) for name, each in module(found).named_parameters())
        _remove_capturing_hooks(module(found))
        content = io.BytesIO()
        _WithoutWeights(content).dump(found)
        del found
        gc.collect()  # modules refer to each other, and would keep the parameters that are sent
        return content.getvalue(), torch.get_rng_state()

    content, random = collectives.from_main(loaded)
    torch.set_rng_state(random)
    return pickle.loads(content), full


def _remove_capturing_hooks(module: nn.Module) -> None:
    """Remove the hooks of transformers that capture outputs, which it installs when needed.

    They are closures, which pickle does not take.
    """
    for each in module.modules():
        each.__dict__.pop(_CAPTURES, None)
        for number, hook in list(each._forward_hooks.items()):
            if getattr(hook, "__module__", "") == _CAPTURING:
                del each._forward_hooks[number]


class _WithoutWeights(pickle.Pickler):
    """Pickler of modules that leaves out the values of parameters; shared ones stay shared."""

    def reducer_override(self, value: Any) -> Any:
        """Return the constructor of a parameter without memory; other objects are as usual."""
        if isinstance(value, nn.Parameter):
            return _without_memory, (tuple(value.shape), value.dtype, value.requires_grad)
        return NotImplemented


def _without_memory(
    shape: tuple[int, ...], dtype: torch.dtype, requires_grad: bool
) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=requires_grad)


def _trainee(parts: TrainingParts) -> nn.Module:
    return parts.trainee


def _itself(module: ReferenceModel) -> nn.Module:
    return module
