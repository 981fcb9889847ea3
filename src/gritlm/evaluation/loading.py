"""A subject in memory for the time it is measured, and which halves it can do."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gritlm.errors import MissingExtraError, ModelError
from gritlm.evaluation.results import Half
from gritlm.evaluation.subjects import Subject

_WRITES: dict[Half, bool] = {"embedding": False, "generation": True, "rag": True}


@contextmanager
def loaded(subject: Subject, *, device: str | None, dtype: str | None) -> Iterator[Any]:
    """The model in memory for the time of the block: a GritLM, or a SentenceTransformer.

    Raises:
        ModelError: for a checkpoint that cannot be loaded, or an adapter for another base.
        MissingExtraError: without sentence-transformers, where it needs it.
    """
    load = _encoder if subject.kind == "sentence-transformers" else _gritlm
    held = [load(subject, device, dtype)]
    try:
        yield held[0]
    finally:
        held.clear()
        gc.collect()
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def lacks(model: Any, half: Half) -> str | None:
    """Why a loaded model cannot do one half; None when it can."""
    mode = getattr(model, "mode", "embedding")
    if _WRITES[half] and mode == "embedding":
        return "it only embeds (it has no LM head)"
    if not _WRITES[half] and mode == "generative":
        return "it only writes (its attention cannot be made to look both ways)"
    return None


def _gritlm(subject: Subject, device: str | None, dtype: str | None) -> Any:
    """For both jobs if it can, else for the one it can do."""
    from gritlm import GritLM

    refused: ModelError | None = None
    for mode in ("unified", "embedding", "generative"):
        try:
            return GritLM(
                subject.source, adapter=subject.adapter, mode=mode, device=device, dtype=dtype
            )
        except ModelError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _encoder(subject: Subject, device: str | None, dtype: str | None) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise MissingExtraError(
            f"{subject.name}: measuring a sentence-transformers model needs that library; "
            "pip install 'gritlm[eval]'"
        ) from None
    options = {} if dtype is None else {"dtype": dtype}
    return SentenceTransformer(str(subject.source), device=device, model_kwargs=options)
