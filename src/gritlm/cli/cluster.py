"""Options of ``gritlm serve --ray``: the cluster, and the replicas on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gritlm.cli.environment import option
from gritlm.errors import InputError
from gritlm.printable import excerpt

if TYPE_CHECKING:
    from gritlm.cli.options import ModelOptions
    from gritlm.scale.serving import ModelSource, Replicas

CLUSTER = "Cluster"


@dataclass(frozen=True)
class ClusterOptions:
    """Replicas of the server on a Ray cluster."""

    ray: Annotated[
        bool,
        option(
            "--ray", env="RAY", panel=CLUSTER, help="Serve with Ray Serve, in one or more replicas."
        ),
    ] = False
    address: Annotated[
        str | None,
        option(
            env="ADDRESS",
            panel=CLUSTER,
            help="Address of the cluster; auto: the running one here. Default: a Ray of its own.",
        ),
    ] = None
    replicas: Annotated[
        int, option(env="REPLICAS", panel=CLUSTER, min=1, help="Number of replicas.")
    ] = 1
    max_replicas: Annotated[
        int | None,
        option(
            env="MAX_REPLICAS",
            panel=CLUSTER,
            min=1,
            help="Maximum number of replicas, started while tokens wait. Default: --replicas.",
        ),
    ] = None
    gpus_per_replica: Annotated[
        float, option(env="GPUS_PER_REPLICA", panel=CLUSTER, min=0.0, help="GPUs of a replica.")
    ] = 0.0

    def scaling(self, threads: int | None) -> Replicas:
        """Return number and resources of the replicas.

        Args:
            threads: threads of a replica, for which its machine keeps as many cores.
        """
        from gritlm.scale.serving import Replicas

        return Replicas(self.replicas, self.max_replicas, cpus=threads, gpus=self.gpus_per_replica)

    def require_ray(self) -> None:
        """Refuse options of a cluster without ``--ray``.

        Raises:
            InputError: for the first option that differs from its default.
        """
        names = ("address", "replicas", "max_replicas", "gpus_per_replica")
        given = {
            "--" + name.replace("_", "-"): getattr(self, name)
            for name in names
            if getattr(self, name) != getattr(ClusterOptions, name)
        }
        refuse_without_ray(given, ray=self.ray)


def refuse_without_ray(given: Mapping[str, Any], *, ray: bool) -> None:
    """Refuse options of work on a cluster without ``--ray``.

    Args:
        given: values of the options by their names; None for an option that was not given.
        ray: whether ``--ray`` was given.

    Raises:
        InputError: for the first option.
    """
    for name, value in given.items():
        if value is not None and not ray:
            named = name if value is True else f"{name} {excerpt(str(value))}"
            raise InputError(f"{named} needs --ray; add --ray, or leave {name} out")


def model_source(
    options: ModelOptions, named: Mapping[str, str], max_model_len: int | None
) -> ModelSource:
    """Return the model for replicas, with folders that other processes find.

    Args:
        options: options of the model.
        named: adapters that are models of their own.
        max_model_len: most tokens of a text.
    """
    from gritlm.scale.serving import ModelSource

    return ModelSource(
        absolute(options.model),
        adapter=absolute(options.adapter),
        adapters={name: absolute(each) or each for name, each in named.items()},
        embed_adapter=absolute(options.embed_adapter),
        device=options.device,
        dtype=None if options.dtype is None else options.dtype.value,
        quantization=None if options.quantization is None else options.quantization.value,
        device_map=options.device_map,
        compile=options.compile,
        max_model_len=max_model_len,
    )


def absolute(source: str | None) -> str | None:
    """Return a folder with its absolute path, and a name of a model hub, or None, as it is."""
    if source is None or not Path(source).exists():
        return source
    return str(Path(source).resolve())
