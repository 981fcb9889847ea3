"""Metadata of a model in mteb's form: name, revision, licence, languages, training data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import get_args

import mteb
from mteb.languages.iso_mappings import _hf_langs_to_iso_lang_scripts
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import Licenses

from gritlm.lm.gritlm import GritLM
from gritlm.lm.hub import default_model

log = logging.getLogger(__name__)

_MODALITIES = {"text": "text", "image": "image", "sound": "audio"}


def meta_of(model: GritLM) -> ModelMeta:
    """Return mteb's metadata of a model.

    The weights and settings decide the revision. Licence, languages, training data and base model
    are those in the model card of the folder.
    """
    facts = model.card_facts
    settings = blake2b(repr(model.settings).encode(), digest_size=4).hexdigest()
    return ModelMeta.create_empty(
        {
            "name": name_of(model),
            "revision": f"{model.lm.fingerprint}-{settings}",
            "embed_dim": model.embedding_dimension,
            "max_tokens": model.max_length,
            "n_parameters": model.num_parameters(),
            "memory_usage_mb": model.memory_bytes() / 2**20,
            "similarity_fn_name": ScoringFunction.COSINE,
            "framework": ["GritLM", "PyTorch"],
            "use_instructions": True,
            "modalities": [_MODALITIES[kind] for kind in model.reads],
            "open_weights": True,
            "license": _license(facts.license),
            "languages": _hf_langs_to_iso_lang_scripts(list(facts.languages)),
            "training_datasets": _tasks_of(facts.datasets),
            "adapted_from": facts.base_model or None,
        }
    )


def name_of(model: GritLM) -> str:
    """Return the name of a model as ``owner/name``: that of a hub, or the folder of this owner."""
    source = str(model.source if model.adapter is None else model.adapter)
    if source == str(default_model.ADAPTER):
        return "gritlm/default" if model.senses is None else "gritlm/senses"
    if source.count("/") == 1 and not Path(source).exists():
        return source
    return f"gritlm/{Path(source).resolve().name}"


def _license(name: str) -> str | None:
    if not name:
        return None
    if name not in get_args(Licenses):
        log.warning("mteb knows no licence %r; the metadata of the model has none", name)
        return None
    return name


def _tasks_of(datasets: Sequence[str]) -> set[str] | None:
    """Return the tasks of mteb that are made of training data, by name or hub id; None if unknown.

    mteb shows by them on which tasks a model is not zero-shot.
    """
    if not datasets:
        return None
    wanted = set(datasets)
    return {
        task.metadata.name
        for task in mteb.get_tasks(exclude_superseded=False)
        if task.metadata.name in wanted or task.metadata.dataset.get("path") in wanted
    }
