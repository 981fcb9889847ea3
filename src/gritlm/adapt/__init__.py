"""Adaptation of a model to a collection of documents: questions, filters, training, report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gritlm import lazy

if TYPE_CHECKING:
    from gritlm.adapt.config import AdaptConfig
    from gritlm.adapt.dry_run import DryRun, try_out
    from gritlm.adapt.pipeline import AdaptResult, adapt
    from gritlm.adapt.verdict import Verdict

__all__ = ["AdaptConfig", "AdaptResult", "DryRun", "Verdict", "adapt", "try_out"]

_HOMES = {
    "AdaptConfig": "gritlm.adapt.config",
    "AdaptResult": "gritlm.adapt.pipeline",
    "DryRun": "gritlm.adapt.dry_run",
    "Verdict": "gritlm.adapt.verdict",
    "adapt": "gritlm.adapt.pipeline",
    "try_out": "gritlm.adapt.dry_run",
}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)
