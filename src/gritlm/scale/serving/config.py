"""Settings of a served application on a cluster: model, server, limits, stores, replicas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gritlm import config
from gritlm.errors import InputError
from gritlm.lm.gritlm import GritLM
from gritlm.scale.block_storage import shared_blocks
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine.limits import Limits
from gritlm.serve.stores import StoreAt, require_distinct


@dataclass(frozen=True)
class ModelSource:
    """The model that every replica loads.

    Attributes:
        name: folder or hub id; None for the default model. A folder has this path on every machine.
        adapter: folder or hub id of a LoRA adapter.
        adapters: folders or hub ids of further adapters, by the names of their models.
        embed_adapter: adapter that embeds only.
        device: device of a replica; None for the best one that Ray assigned.
        dtype: data type of the weights; None for the fastest one.
        quantization: format of quantised weights; None for none.
        device_map: placement of the layers on several devices; None for one device.
        compile: whether decoding steps are compiled.
        max_model_len: most tokens of a text; None for those of the model.
    """

    name: str | None = None
    adapter: str | None = None
    adapters: dict[str, str] = field(default_factory=dict)
    embed_adapter: str | None = None
    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    device_map: str | None = None
    compile: bool = False
    max_model_len: int | None = None

    def load(self) -> GritLM:
        """Load the model, after a download of the default model if it is missing here."""
        from gritlm.lm.hub import default_model

        if self.name in default_model.OURS:
            default_model.ensure()
        optional: dict[str, Any] = {
            "quantization": self.quantization,
            "device_map": self.device_map,
            "compile": self.compile or None,
        }
        return GritLM(
            self.name,
            device=self.device,
            adapter=self.adapter,
            adapters=self.adapters or None,
            embed_adapter=self.embed_adapter,
            dtype=self.dtype,
            max_model_len=self.max_model_len,
            **{name: value for name, value in optional.items() if value is not None},
        )


@dataclass(frozen=True)
class Replicas:
    """Number and resources of the replicas.

    Attributes:
        least: fewest replicas.
        most: most replicas; None for ``least``, which turns autoscaling off.
        cpus: cores of a replica, and its number of threads; None for one.
        gpus: GPUs of a replica.
        waiting_tokens: waiting tokens for each replica above which one more is started.
        upscale_delay_s: seconds for which more replicas must be wanted before they start.
        downscale_delay_s: seconds for which fewer replicas must be wanted before some stop.
        surge: whether an update starts new replicas before old ones stop, which needs a free
            device for each of them.
        gateways: processes that receive requests and choose their replicas.

    Raises:
        InputError: for a value out of range.
    """

    least: int = 1
    most: int | None = None
    cpus: float | None = None
    gpus: float = 0
    waiting_tokens: int = 8192
    upscale_delay_s: float = 10.0
    downscale_delay_s: float = 300.0
    surge: bool = False
    gateways: int = 1

    def __post_init__(self) -> None:
        for name in ("least", "waiting_tokens", "gateways"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}; expected 1 or more")
        if self.most is not None and self.most < self.least:
            raise InputError(f"most={self.most}; expected at least least={self.least}")
        for name in ("gpus", "upscale_delay_s", "downscale_delay_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)}; expected 0 or more")
        if self.cpus is not None and not 0 < self.cpus < math.inf:
            raise InputError(f"cpus={self.cpus}; expected more than 0")

    @property
    def threads(self) -> int | None:
        """Threads of a replica; None for those that fit its machine."""
        return None if self.cpus is None or self.cpus < 1 else int(self.cpus)


@dataclass(frozen=True)
class ServingConfig:
    """Settings of a served application, the sections of ``args`` in a file for ``serve deploy``.

    Attributes:
        model: the model.
        server: settings of the HTTP API. Host and port belong to Ray Serve's proxy.
        limits: limits of the engine of each replica.
        stores: folders of document stores, or ``name=folder``, with one path on every machine.
        store_read_only: whether no replica writes to the stores.
        shared_blocks: folder that all machines reach, or address, of KV blocks that other stores
            and machines share; None for none. Its credentials come from the environment.
        replicas: number and resources of the replicas.
        log_format: format of the log lines of replicas, ``text`` or ``json``.
    """

    model: ModelSource = ModelSource()
    server: ServerConfig = field(default_factory=ServerConfig)
    limits: Limits = field(default_factory=Limits)
    stores: tuple[str, ...] = ()
    store_read_only: bool = False
    shared_blocks: str | None = None
    replicas: Replicas = Replicas()
    log_format: Literal["text", "json"] = "text"

    def places(self) -> tuple[StoreAt, ...]:
        """Return the document stores.

        Raises:
            InputError: for two stores that share a name or a folder, or an address of another kind.
        """
        found = tuple(StoreAt.parse(text, read_only=self.store_read_only) for text in self.stores)
        require_distinct(found)
        if self.shared_blocks is None:
            return found
        blocks = shared_blocks(self.shared_blocks)
        return tuple(replace(store, shared_blocks=blocks) for store in found)


def read(arguments: Mapping[str, Any]) -> ServingConfig:
    """Return the settings in the arguments of an application.

    Args:
        arguments: the sections, as a YAML file has them.

    Raises:
        InputError: for an unknown key or a value of another type.
    """
    return config.from_mapping(dict(arguments), ServingConfig, source="args")
