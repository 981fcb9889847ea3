"""Senses of a text-only model: projectors next to its weights, or those of the default model."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gritlm.lm.hub import default_model
from gritlm.lm.hub.load import LoadedModel
from gritlm.lm.media.senses import KINDS, Kind
from gritlm.lm.media.towers.projector import Projector
from gritlm.lm.media.towers.projector_files import SUBFOLDER, has_projectors, load_projector

if TYPE_CHECKING:
    from gritlm.lm.media.towers.small_senses import SmallSenses

# Projectors of the default model. They change only together with its adapter.
OF_DEFAULT_MODEL = Path(__file__).parents[1] / "projectors"

log = logging.getLogger(__name__)


def with_projectors(loaded: LoadedModel, name: str | Path | None, source: str) -> LoadedModel:
    """Return a model with the senses of its projectors, if it has any.

    The projectors are those of the default model for the name ``senses``, and otherwise in the
    folder ``senses`` of a saved model. The towers are downloaded if they are missing.

    Args:
        loaded: the model.
        name: name by which it was loaded.
        source: its folder or hub id.

    Raises:
        ModelError: for a damaged projector, or one for another decoder.
        DownloadError: for towers that cannot be downloaded.
    """
    folder = Path(source) / SUBFOLDER
    if name == default_model.SENSES:
        folder = OF_DEFAULT_MODEL
    if loaded.senses is not None or not has_projectors(folder):
        return loaded
    end = loaded.tokenizer.eos_token_id
    senses = _senses(folder, loaded.model, placeholder=0 if end is None else int(end))
    return replace(loaded, senses=senses)


def _senses(folder: Path, model: Any, *, placeholder: int) -> SmallSenses:
    """Return the senses that projectors make with the published towers.

    Args:
        folder: files of one or two projectors.
        model: the text decoder that they were trained for.
        placeholder: token id in whose place features are.
    """
    # Text-only models load neither Pillow nor the towers.
    from gritlm.lm.media.towers import published
    from gritlm.lm.media.towers.small_senses import SmallSenses

    embeddings = model.get_input_embeddings().weight
    found: dict[Kind, Projector] = {}
    digest = hashlib.sha256(published.FOLDER.encode())
    for kind in KINDS:
        path = folder / f"{kind}.safetensors"
        if path.is_file():
            found[kind] = load_projector(path, embeddings)
            digest.update(path.read_bytes())
    image, sound = published.towers(published.pull(report=log.info))
    senses = SmallSenses(
        (image, found["image"]) if "image" in found else None,
        (sound, found["sound"]) if "sound" in found else None,
        placeholder=placeholder,
        maker=digest.hexdigest(),
    )
    senses.module.to(embeddings.device)
    return senses
