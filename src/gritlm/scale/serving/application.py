"""The Ray Serve application: a gateway in front of replicas with the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from gritlm.scale.serving.autoscaling import WaitingTokens
from gritlm.scale.serving.config import ServingConfig, read
from gritlm.scale.serving.deployments import ListeningGateway, ProxiedGateway
from gritlm.scale.serving.replica import Replica
from gritlm.scale.serving.router import KVRouter

_GATEWAY_REQUESTS = 4096  # running requests of a gateway, which does no work of its own
_STATS_S = 1.0  # seconds between two reports of the stores that a replica writes to
_MARGIN = 64  # requests of a replica that need no place in the engine's queue
_CLOSING_S = 10.0  # seconds for a gateway to close its connections after it has drained
_HEALTH_PERIOD_S = 10.0
_LOOK_BACK_S = 11.0  # more than the 10 seconds between two reports of a replica's load
_STARTS = 2  # a model that cannot be loaded is reported after as many tries
_LOGGING = {"enable_access_log": False}  # the replicas have an access log of their own


def build(settings: ServingConfig) -> Application:
    """Return the application for ``serve.run``, behind Ray Serve's proxy.

    Args:
        settings: its settings, which are checked here.

    Raises:
        InputError: for stores that share a name or a folder.
    """
    return _gateway(ProxiedGateway, settings, {"num_replicas": settings.replicas.gateways})


def build_listening(settings: ServingConfig, node: str) -> Application:
    """Return the application with a gateway that listens on host and port of the settings itself.

    Args:
        settings: its settings, which are checked here.
        node: address of the node that listens.

    Raises:
        InputError: for stores that share a name or a folder.
    """
    # An update stops the gateway before the next one starts: one socket has the port.
    pinned = {"ray_actor_options": {"resources": {f"node:{node}": 0.001}}, "max_surge_percent": 0}
    return _gateway(ListeningGateway, settings, pinned)


def _gateway(deployment: type, settings: ServingConfig, options: dict[str, Any]) -> Application:
    """Return a gateway that is bound to its replicas."""
    settings.places()
    # A core for it would be missing to the replicas.
    actor = {"num_cpus": 0, **options.pop("ray_actor_options", {})}
    made: Any = serve.deployment(
        deployment,
        name="Gateway",
        max_ongoing_requests=_GATEWAY_REQUESTS,
        ray_actor_options=actor,
        graceful_shutdown_timeout_s=settings.server.drain_s + _CLOSING_S,
        graceful_shutdown_wait_loop_s=0.5,
        logging_config=_LOGGING,
        **{"max_surge_percent": 100, **options},
    )
    return made.bind(_replicas(settings).bind(settings), settings)


def app(arguments: Mapping[str, Any]) -> Application:
    """Return the application for ``serve run`` and ``serve deploy``.

    Args:
        arguments: sections of :class:`ServingConfig`, under ``args`` in the file.

    Raises:
        InputError: for an unknown key or a value of another type.
    """
    return build(read(arguments))


def _replicas(settings: ServingConfig) -> Any:
    """Return the deployment of the replicas."""
    scaling = settings.replicas
    limits = settings.limits
    most = scaling.most or scaling.least
    count: dict[str, Any] = {"num_replicas": scaling.least}
    routing: dict[str, Any] = {
        "request_router_class": KVRouter,
        "request_router_kwargs": {"spill": limits.max_num_seqs},
        "request_routing_stats_period_s": _STATS_S,
    }
    if most > scaling.least:
        policy = AutoscalingPolicy(
            policy_function=WaitingTokens,
            policy_kwargs={"tokens": scaling.waiting_tokens, "sequences": limits.max_num_seqs},
        )
        count = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=scaling.least,
                max_replicas=most,
                upscale_delay_s=scaling.upscale_delay_s,
                downscale_delay_s=scaling.downscale_delay_s,
                look_back_period_s=max(_LOOK_BACK_S, min(30.0, scaling.upscale_delay_s)),
                policy=policy,
            )
        }
    return serve.deployment(
        Replica,
        name="Model",
        max_ongoing_requests=limits.max_waiting + limits.max_num_seqs + _MARGIN,
        ray_actor_options={
            "num_cpus": 1 if scaling.cpus is None else scaling.cpus,
            "num_gpus": scaling.gpus,
        },
        graceful_shutdown_timeout_s=settings.server.drain_s,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=math.ceil(2 * settings.server.health_timeout_s) + 5,
        request_router_config=RequestRouterConfig(**routing),
        max_surge_percent=100 if scaling.surge else 0,
        max_constructor_retry_count=_STARTS,
        logging_config=_LOGGING,
        **count,
    )
