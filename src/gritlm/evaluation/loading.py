"""A subject in memory for the time it is measured, and which halves it can do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gritlm.distribution import install_hint
from gritlm.errors import AttentionError, MissingExtraError, ModelError
from gritlm.evaluation import memory
from gritlm.evaluation.models import EvaluatedModel
from gritlm.evaluation.results import Half

_WRITES: dict[Half, bool] = {"embedding": False, "generation": True, "rag": True}


@dataclass(frozen=True)
class ReadyModel:
    """A model in memory.

    Attributes:
        model: a GritLM, or a SentenceTransformer.
        why: what was said when it was refused for both halves; empty where it does them, or is
            made for one.
    """

    model: Any
    why: str = ""

    def lacks(self, half: Half) -> str | None:
        """Why it cannot do one half; None when it can."""
        mode = getattr(self.model, "mode", "embedding")
        more = f": {self.why}" if self.why else ""
        if _WRITES[half] and mode == "embedding":
            return f"it only embeds{more}"
        if not _WRITES[half] and mode == "generative":
            return f"it only writes{more}"
        return None


@contextmanager
def loaded(
    subject: EvaluatedModel, *, device: str | None, dtype: str | None
) -> Iterator[ReadyModel]:
    """The model in memory for the time of the block.

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
        memory.free()


def _gritlm(subject: EvaluatedModel, device: str | None, dtype: str | None) -> ReadyModel:
    """For both halves; without LM head, or with attention that stays causal, for the other one."""
    from gritlm import GritLM

    options: dict[str, Any] = {"adapter": subject.adapter, "device": device, "dtype": dtype}
    try:
        return ReadyModel(GritLM(subject.source, **options))
    except ModelError as error:
        attention = isinstance(error, AttentionError)
        if not attention and (subject.has_head or subject.adapter is not None):
            raise
        mode = "generative" if attention else "embedding"
        why = error.with_traceback(None)  # whose frames hold the weights
    try:
        return ReadyModel(GritLM(subject.source, mode=mode, **options), str(why))
    except ModelError:
        raise why from None


def _encoder(subject: EvaluatedModel, device: str | None, dtype: str | None) -> ReadyModel:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise MissingExtraError(
            f"{subject.name}: measuring a sentence-transformers model needs that library; "
            f"{install_hint('eval')}"
        ) from None
    options = {} if dtype is None else {"dtype": dtype}
    return ReadyModel(SentenceTransformer(str(subject.source), device=device, model_kwargs=options))
