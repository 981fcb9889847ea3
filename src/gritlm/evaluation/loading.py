"""Loading of models for evaluation, with the reason why a model cannot do a kind of task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gritlm.distribution import install_hint
from gritlm.errors import AttentionError, InputError, MissingExtraError, ModelError
from gritlm.evaluation import memory
from gritlm.evaluation.models import EvaluatedModel
from gritlm.evaluation.results import Kind

# Tasks with images and sound embed or generate: a task that the model cannot do is refused by it.
_GENERATES: dict[Kind, bool] = {"embedding": False, "generation": True, "rag": True}


@dataclass(frozen=True)
class ReadyModel:
    """A model in memory.

    Attributes:
        model: a GritLM, or a SentenceTransformer.
        why: error that prevented loading the model for both embedding and generation; empty if
            there was no error.
    """

    model: Any
    why: str = ""

    def lacks(self, kind: Kind) -> str | None:
        """Return the reason why the model cannot do a kind of task; None if it can."""
        mode = getattr(self.model, "mode", "embedding")
        more = f": {self.why}" if self.why else ""
        generates = _GENERATES.get(kind)
        if generates is True and mode == "embedding":
            return f"it only embeds{more}"
        if generates is False and mode == "generative":
            return f"it only writes{more}"
        return None


@contextmanager
def loaded(
    evaluated: EvaluatedModel,
    *,
    device: str | None,
    dtype: str | None,
    quantization: str | None = None,
) -> Iterator[ReadyModel]:
    """Load a model for the duration of a ``with`` block, and free its memory afterwards.

    Args:
        evaluated: the model.
        device: its device; None for the best one available.
        dtype: its number format; None for the fastest on this machine.
        quantization: format of quantised weights; None for none.

    Raises:
        InputError: for a model of sentence-transformers that should be quantised.
        ModelError: if the checkpoint cannot be loaded, or the adapter belongs to another base.
        MissingExtraError: if the model needs sentence-transformers and it is not installed.
    """
    if evaluated.kind == "sentence-transformers":
        if quantization is not None:
            raise InputError(
                f"{evaluated.name} is a sentence-transformers model, which quantization="
                f"{quantization!r} is not for; measure it in a run without"
            )
        held = [_load_encoder(evaluated, device, dtype)]
    else:
        options = {"device": device, "dtype": dtype, "quantization": quantization}
        held = [_load_gritlm(evaluated, options)]
    try:
        yield held[0]
    finally:
        held.clear()
        memory.free()


def _load_gritlm(evaluated: EvaluatedModel, options: dict[str, Any]) -> ReadyModel:
    """Load a GritLM in unified mode, or in the mode that its checkpoint allows.

    Without an LM head it can only embed; with attention that stays causal it can only generate.
    """
    from gritlm import GritLM

    options = {"adapter": evaluated.adapter, **options}
    name = evaluated.own_name or evaluated.source
    try:
        return ReadyModel(GritLM(name, **options))
    except ModelError as error:
        attention = isinstance(error, AttentionError)
        if not attention and (evaluated.has_head or evaluated.adapter is not None):
            raise
        mode = "generative" if attention else "embedding"
        why = error.with_traceback(None)  # the frames of the traceback would keep the weights
    try:
        return ReadyModel(GritLM(name, mode=mode, **options), str(why))
    except ModelError:
        raise why from None


def _load_encoder(evaluated: EvaluatedModel, device: str | None, dtype: str | None) -> ReadyModel:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise MissingExtraError(
            f"{evaluated.name}: measuring a sentence-transformers model needs that library; "
            f"{install_hint('eval')}"
        ) from None
    options = {} if dtype is None else {"dtype": dtype}
    source = str(evaluated.source)
    return ReadyModel(SentenceTransformer(source, device=device, model_kwargs=options))
