"""Inputs that a task has and that a model reads: text, images and sound."""

from __future__ import annotations

import json
from pathlib import Path

from gritlm.evaluation.tasks import layouts

Inputs = frozenset[str]

TEXT: Inputs = frozenset({"text"})
_PLURALS = {"text": "text", "image": "images", "sound": "sound"}


def of_type(task_type: str) -> Inputs:
    """Return the inputs of a type of local task."""
    found = layouts.SENSES.get(task_type)
    return TEXT if found is None else TEXT | {found}


def of_model(folder: Path, projectors: Path) -> Inputs:
    """Return the inputs that a model reads, by its files; nothing is loaded.

    Args:
        folder: folder of the checkpoint.
        projectors: folder of projectors for images and sound, which need not exist.
    """
    from gritlm.lm.media.families import FAMILIES
    from gritlm.lm.media.senses import KINDS

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return TEXT  # loading the model reports the damage
    family = FAMILIES.get(config.get("model_type", "")) if isinstance(config, dict) else None
    if family is not None:
        return TEXT | family.reads
    return TEXT | {kind for kind in KINDS if (projectors / f"{kind}.safetensors").is_file()}


def unread(needs: Inputs, reads: Inputs) -> str | None:
    """Return why a model cannot read a task; None if it can.

    Args:
        needs: inputs of the task.
        reads: inputs that the model reads.
    """
    if needs <= reads:
        return None
    return f"it reads {listed(reads)}; the task has {listed(needs)}"


def listed(inputs: Inputs) -> str:
    """Return the names of inputs as text: ``text and images``."""
    return " and ".join(name for key, name in _PLURALS.items() if key in inputs)
