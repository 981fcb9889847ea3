"""``gritlm serve --ray``: the application on a cluster, until SIGTERM or ctrl-C."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from gritlm.errors import InputError, one_line
from gritlm.scale.cluster import ClusterError, connected
from gritlm.scale.serving.config import Replicas, ServingConfig
from gritlm.serve.server import address as url_of
from gritlm.serve.server import bind
from gritlm.train.run.signals import listening

APPLICATION = "gritlm"
_POLL_S = 0.2
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
    with bind(settings.server) as sock:  # reports an address in use before a model is loaded
        url = url_of(sock)
        host, port = sock.getsockname()[:2]
    # Messages between proxy, gateway and replicas as values: half the latency. Ray reads it once.
    os.environ.setdefault("RAY_SERVE_USE_GRPC_BY_DEFAULT", "1")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with connected(address):
        from ray import serve as ray_serve

        from gritlm.scale.serving.application import build

        if address is None:
            _require_devices(settings.replicas)
        ray_serve.start(http_options={"host": host, "port": port})
        try:
            ray_serve.run(build(settings), name=APPLICATION, route_prefix="/")
            on_listening(url)
            with listening() as stop:
                while not stop.asked:
                    time.sleep(_POLL_S)
        except RuntimeError as error:
            raise ClusterError(f"the replicas did not start: {_reason(error)}") from None
        finally:
            ray_serve.delete(APPLICATION)
            if address is None:
                ray_serve.shutdown()


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
