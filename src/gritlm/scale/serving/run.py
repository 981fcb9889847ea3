"""``gritlm serve --ray``: the application on a cluster, until SIGTERM or ctrl-C."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gritlm.errors import InputError, one_line
from gritlm.scale.cluster import ClusterError, connected
from gritlm.scale.serving.config import Replicas, ServingConfig
from gritlm.serve.config import ServerConfig
from gritlm.serve.server import bind
from gritlm.train.run.signals import listening

log = logging.getLogger(__name__)

APPLICATION = "gritlm"
_FASTER = {
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",  # messages as values: half the latency
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # a token changes threads once less
}
_POLL_S = 0.2
_ANSWER_S = 10.0  # seconds for a gateway to answer
_ERROR = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception): (?P<text>.+)$", re.M)


def serve(
    settings: ServingConfig, *, address: str | None = None, on_listening: Callable[[str], None]
) -> None:
    """Serve on a cluster until SIGTERM or ctrl-C, then finish the running requests.

    Args:
        settings: settings of the application.
        address: address of the cluster; None for this machine alone.
        on_listening: called with the URL once all replicas have loaded the model.

    Raises:
        ClusterError: for a cluster that cannot be reached, or replicas that do not start.
        InputError: for an address in use, stores that share a name or a folder, or a missing
            folder of the model on this machine.
    """
    settings.places()
    if address is None:
        _require_folder(settings.model.name)
        settings = _with_port(settings)  # an address in use is reported before Ray starts
    for name, value in _FASTER.items():  # Ray reads them when it is imported
        os.environ.setdefault(name, value)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with connected(address):
        from ray import serve as ray_serve

        if address is None:
            _require_devices(settings.replicas)
        runs = APPLICATION in ray_serve.status().applications
        if not runs:  # else its gateway has the port
            settings = _with_port(settings)
        ray_serve.start(proxy_location="Disabled")
        try:
            gateway = (_running_gateway(settings) if runs else None) or _deploy(settings)
            on_listening(_url(settings.server))
            with listening() as stop:
                while not stop.asked:
                    time.sleep(_POLL_S)
            _drain(gateway, settings.server.drain_s)
        except RuntimeError as error:
            raise ClusterError(f"the replicas did not start: {_reason(error)}") from None
        finally:
            ray_serve.delete(APPLICATION)
            if address is None:
                ray_serve.shutdown()


def _with_port(settings: ServingConfig) -> ServingConfig:
    """Return settings with a free port in the place of 0.

    Raises:
        InputError: for an address in use.
    """
    with bind(settings.server) as sock:
        return replace(settings, server=replace(settings.server, port=sock.getsockname()[1]))


def _url(server: ServerConfig) -> str:
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"http://{host}:{server.port}"


def _running_gateway(settings: ServingConfig) -> Any:
    """Return the gateway of an application with these settings that runs; None without one."""
    from ray import serve as ray_serve

    try:
        gateway = ray_serve.get_app_handle(APPLICATION)
        same = gateway.runs.remote(settings).result(timeout_s=_ANSWER_S)
    except Exception as error:  # of Ray, or of an application that is not ours
        log.warning("the application that runs does not answer: %s", one_line(error, limit=200))
        return None
    return gateway if same else None


def _deploy(settings: ServingConfig) -> Any:
    """Start the application, in the place of one that runs, and return its gateway."""
    from ray import serve as ray_serve
    from ray.util import get_node_ip_address

    from gritlm.scale.serving.application import build_listening

    made = build_listening(settings, get_node_ip_address())
    return ray_serve.run(made, name=APPLICATION, route_prefix=None)


def _drain(gateway: Any, drain_s: float) -> None:
    """Let the gateway finish its requests, while the replicas are all there."""
    try:
        gateway.drain.remote().result(timeout_s=drain_s + _ANSWER_S)
    except Exception as error:  # of Ray, e.g. because the gateway has died
        log.warning("the gateway did not drain: %s", one_line(error, limit=200))


def _require_folder(model: str | None) -> None:
    """Require the folder of a model, before replicas try to load it several times.

    Raises:
        InputError: for an absolute path that does not exist.
    """
    if model is not None and Path(model).is_absolute() and not Path(model).exists():
        raise InputError(f"model {model}: there is no such folder; give a folder or a hub id")


def _require_devices(replicas: Replicas) -> None:
    """Require the devices of the replicas, which Ray Serve would wait for forever.

    Raises:
        InputError: for fewer devices, with both numbers.
    """
    import ray

    have = ray.cluster_resources()
    needed = {"CPU": replicas.least * (replicas.cpus or 1), "GPU": replicas.least * replicas.gpus}
    for name, number in needed.items():
        if number > have.get(name, 0):
            raise InputError(
                f"{replicas.least} replicas need {number:g} {name}s, this machine has "
                f"{have.get(name, 0):g}; use fewer replicas or threads, or a cluster (--address)"
            )


def _reason(error: RuntimeError) -> str:
    """Return the error of a replica in one line, out of the status of the application."""
    from ray import serve as ray_serve

    status = ray_serve.status().applications.get(APPLICATION)
    messages = [each.message for each in status.deployments.values()] if status else []
    found = [match["text"] for text in messages for match in _ERROR.finditer(text)]
    return one_line(found[-1] if found else error, limit=300)
