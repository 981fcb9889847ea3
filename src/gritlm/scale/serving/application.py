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
from gritlm.scale.serving.gateway import Gateway
from gritlm.scale.serving.replica import Replica
from gritlm.scale.serving.router import KVRouter

_GATEWAY_REQUESTS = 4096  # running requests of a gateway, which does no work of its own
_STATS_S = 1.0  # seconds between two reports of the stores that a replica writes to
_MARGIN = 64  # requests of a replica that need no place in the engine's queue
_HEALTH_PERIOD_S = 10.0
_STARTS = 2  # a model that cannot be loaded is reported after as many tries
_LOGGING = {"enable_access_log": False}  # the replicas have an access log of their own


@serve.ingress()
class GatewayDeployment:
    """Deployment of the gateway.

    Args:
        replicas: handle of the replicas.
        settings: settings of the application.
    """

    def __init__(self, replicas: Any, settings: ServingConfig) -> None:
        self._gateway = Gateway(replicas, settings)

    def __serve_build_asgi_app__(self) -> Gateway:
        return self._gateway


def build(settings: ServingConfig) -> Application:
    """Return the application for ``serve.run``.

    Args:
        settings: its settings, which are checked here.

    Raises:
        InputError: for stores that share a name or a folder.
    """
    settings.places()
    replicas = _replicas(settings).bind(settings)
    gateway: Any = serve.deployment(
        GatewayDeployment,
        name="Gateway",
        num_replicas=settings.replicas.gateways,
        max_ongoing_requests=_GATEWAY_REQUESTS,
        ray_actor_options={"num_cpus": 0},  # a core for it would be missing to the replicas
        graceful_shutdown_timeout_s=settings.server.drain_s + 5,
        graceful_shutdown_wait_loop_s=0.5,
        max_surge_percent=100,
        logging_config=_LOGGING,
    )
    return gateway.bind(replicas, settings)


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
                look_back_period_s=max(2.0, min(30.0, scaling.upscale_delay_s)),
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
