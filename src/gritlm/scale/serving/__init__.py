"""Serving on a cluster: a Ray Serve application with the HTTP API of ``gritlm serve``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gritlm import lazy

if TYPE_CHECKING:
    from gritlm.scale.serving.application import app, build
    from gritlm.scale.serving.config import ModelSource, Replicas, ServingConfig

__all__ = ["ModelSource", "Replicas", "ServingConfig", "app", "build"]

_HOMES = {
    "ModelSource": "gritlm.scale.serving.config",
    "Replicas": "gritlm.scale.serving.config",
    "ServingConfig": "gritlm.scale.serving.config",
    "app": "gritlm.scale.serving.application",
    "build": "gritlm.scale.serving.application",
}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)
