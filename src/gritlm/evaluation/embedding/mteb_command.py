"""mteb's own command line, for models in folders too."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mteb.cli import main as run_cli
from mteb.models.model_implementations import MODEL_REGISTRY

from gritlm.evaluation.embedding.encoder import mteb_encoder
from gritlm.lm.gritlm import GritLM
from gritlm.lm.hub import default_model

_MODEL = ("-m", "--model")
_GPU = "--device"  # its number


def main(arguments: Sequence[str]) -> None:
    """Run mteb's command line; ``run -m`` takes a folder, ``default`` and ``base`` too.

    Results are written in mteb's layout, as its leaderboard takes them:
    ``<output folder>/results/<model>/<revision>/<task>.json`` with ``model_meta.json``.

    Args:
        arguments: arguments of mteb.
    """
    words = list(arguments)
    place = _place_of(words, _MODEL)
    if words[:1] == ["run"] and place is not None and _is_ours(words[place]):
        gpu = _place_of(words, (_GPU,))
        device = None if gpu is None else f"cuda:{words[gpu]}"
        words[place] = register(GritLM(words[place], mode="embedding", device=device))
    with patch.object(sys, "argv", ["mteb", *words]):
        run_cli()


def register(model: GritLM) -> str:
    """Make a loaded model known to mteb in this process, and return its name there."""
    encoder = mteb_encoder(model)

    def loaded(*_: Any, **__: Any) -> Any:
        return encoder

    meta = encoder.mteb_model_meta.model_copy(update={"loader": loaded})
    MODEL_REGISTRY[str(meta.name)] = meta
    return str(meta.name)


def _is_ours(name: str) -> bool:
    return name in default_model.OURS or Path(name).is_dir()


def _place_of(words: Sequence[str], options: Sequence[str]) -> int | None:
    """Return the index of an option's value among arguments; None without it."""
    for number, word in enumerate(words[:-1]):
        if word in options:
            return number + 1
    return None
