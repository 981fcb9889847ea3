"""Format and placement of the weights: quantization, several devices, several processes.

Each combination that does not work is refused before the weights are read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gritlm.errors import InputError, ModelError, at_least_one, choice
from gritlm.lm.quantization import requirements

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True)
class Placement:
    """Where and how the weights of a model are held.

    Attributes:
        device: device of the model; None for the best one available.
        quantization: format of quantised weights; None for none.
        tensor_parallel_size: number of processes that share each layer.

    Raises:
        InputError: for a value out of range.
    """

    device: str | torch.device | None = None
    quantization: str | None = None
    tensor_parallel_size: int = 1

    def __post_init__(self) -> None:
        at_least_one(self.tensor_parallel_size, name="tensor_parallel_size")
        if self.quantization is not None:
            choice(self.quantization, requirements.FORMATS, name="quantization")

    @property
    def keeps_factors(self) -> bool:
        """Whether the factors of a merged adapter are needed too."""
        return self.quantization == "int4"

    def require_plain(self, *, compiled: bool, unmerged: bool) -> None:
        """Refuse compiled steps and unmerged adapters where they do not go with the placement.

        Args:
            compiled: whether decoding steps are compiled.
            unmerged: whether adapters stay apart from the weights.

        Raises:
            InputError: for a combination that does not work.
        """
        if self.quantization not in (None, "int8") and compiled:
            raise InputError(
                f"compile=True and quantization={self.quantization!r}: of quantised layers, int8 "
                "alone is compiled; leave one of the two out"
            )
        asked = None if self.quantization is None else f"quantization={self.quantization!r}"
        if self.tensor_parallel_size > 1:
            asked = f"tensor_parallel_size={self.tensor_parallel_size}"
        if unmerged and asked is not None:
            raise InputError(
                f"{asked} and adapters or embed_adapter: their layers stay apart from the weights, "
                "which have to be whole; pass one adapter, which is merged, or leave it out"
            )

    def require_fit(self, config: Any, source: str, *, adapter: str | None) -> None:
        """Refuse a model that cannot be placed so.

        Args:
            config: configuration of the model.
            source: its folder or hub id.
            adapter: adapter that is merged when loading; None without one.

        Raises:
            InputError: for weights that are quantised already, an adapter, or a number of processes
                that does not divide the heads.
            ModelError: for a family without a plan of tensor parallelism.
        """
        if self.quantization is not None:
            requirements.require_unquantized(config, self.quantization, source)
        if self.tensor_parallel_size > 1:
            if adapter is not None:
                raise InputError(
                    f"tensor_parallel_size={self.tensor_parallel_size} and an adapter ({adapter}): "
                    "adapters are merged into whole layers; write the merged folder with gritlm "
                    "export, and load that"
                )
            _require_divisible(config, self.tensor_parallel_size)

    def prepare(
        self, target: torch.device, options: dict[str, Any], *, adapter: str | None
    ) -> None:
        """Check the placement and add its options of ``from_pretrained``.

        Args:
            target: device of the model.
            options: options of ``from_pretrained``; extended in place.
            adapter: adapter that is merged when loading; None without one.

        Raises:
            InputError: for options that do not go together.
            ModelError: for a format that this machine lacks.
        """
        _require_map(options.get("device_map"), self.device)
        if self.tensor_parallel_size > 1:
            self._require_alone(options)
            options["distributed_config"] = _distributed(self.tensor_parallel_size)
        if self.quantization is not None:
            requirements.require(self.quantization, target, options, adapter=adapter)
            options |= requirements.loading_options(self.quantization, target, options)

    def _require_alone(self, options: Mapping[str, Any]) -> None:
        """Refuse tensor parallelism with other placements."""
        size = f"tensor_parallel_size={self.tensor_parallel_size}"
        if self.quantization is not None:
            raise InputError(
                f"{size} and quantization={self.quantization!r}: quantised layers are not divided "
                "among processes; leave one of the two out"
            )
        for name in ("device_map", "distributed_config", "tp_plan"):
            if options.get(name) is not None:
                raise InputError(
                    f"{size} and {name}={str(options[name])[:60]!r}: each of the two places the "
                    "layers; leave one of them out"
                )


def _require_divisible(config: Any, size: int) -> None:
    """Refuse a model that tensor parallelism cannot divide."""
    if not getattr(config, "base_model_tp_plan", None):
        raise ModelError(
            f"{config.model_type!r} has no plan of tensor parallelism in transformers; leave "
            "tensor_parallel_size out, or use device_map='auto'"
        )
    for name in ("num_attention_heads", "num_key_value_heads"):
        count = getattr(config, name, None)
        if count is not None and count % size:
            raise InputError(
                f"tensor_parallel_size={size} does not divide {name}={count} of this model; use a "
                "divisor"
            )


def _require_map(device_map: Any, device: str | torch.device | None) -> None:
    if isinstance(device_map, str):
        choice(device_map, DEVICE_MAPS, name="device_map")
        if device is not None:
            raise InputError(
                f"device={str(device)!r} and device_map={device_map!r}: each of the two places the "
                "layers; leave one of them out"
            )


def _distributed(size: int) -> Any:
    """Return the configuration of transformers for processes that torchrun has started."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != size:
        raise InputError(
            f"tensor_parallel_size={size} needs {size} processes, torchrun started {started}; run "
            f"torchrun --nproc-per-node {size} -m gritlm ..."
        )
    from transformers.distributed.configuration_utils import DistributedConfig

    return DistributedConfig(tp_size=size, tp_plan="auto")
