"""Training: the embedding and the generation objective in one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gritlm import lazy

if TYPE_CHECKING:
    from gritlm.train.config import TrainConfig
    from gritlm.train.data import packing
    from gritlm.train.mining.mine import mine_rows
    from gritlm.train.mining.negatives import MiningConfig
    from gritlm.train.objectives import gradcache, losses
    from gritlm.train.run import collectives
    from gritlm.train.trainer import TrainResult, train

__all__ = [
    "MiningConfig",
    "TrainConfig",
    "TrainResult",
    "collectives",
    "gradcache",
    "losses",
    "mine_rows",
    "packing",
    "train",
]

_HOMES = {
    "MiningConfig": "gritlm.train.mining.negatives",
    "TrainConfig": "gritlm.train.config",
    "TrainResult": "gritlm.train.trainer",
    "collectives": "gritlm.train.run.collectives",
    "gradcache": "gritlm.train.objectives.gradcache",
    "losses": "gritlm.train.objectives.losses",
    "mine_rows": "gritlm.train.mining.mine",
    "packing": "gritlm.train.data.packing",
    "train": "gritlm.train.trainer",
}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)
