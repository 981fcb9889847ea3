"""A base model that is in memory once, and the adapters over it, which stay unmerged."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from gritlm.errors import InputError, ModelError, did_you_mean
from gritlm.lm.adapters.attach import attach
from gritlm.lm.hub import checkpoint, vocabulary
from gritlm.lm.hub.load import HUB_OPTIONS, LoadedModel, load_tokenizer
from gritlm.lm.hub.load_errors import explained
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.media import trained_towers
from gritlm.lm.self_check import require_numbers, require_views
from gritlm.lm.unified import UnifiedLM


@dataclass(frozen=True)
class ModelParts:
    """A model over a shared base.

    Attributes:
        lm: the model.
        tokenizer: its tokenizer.
        settings: its settings.
        projection: layer before pooling; None for no projection.
        adapter: folder or hub id of its adapter; None for the base alone.
    """

    lm: UnifiedLM
    tokenizer: PreTrainedTokenizerBase
    settings: ModelSettings
    projection: nn.Linear | None
    adapter: str | None


@dataclass(frozen=True)
class AdapterChoice:
    """Adapters over a base that stay unmerged.

    Attributes:
        adapter: folder or hub id of the adapter that the model has; None for the base alone.
        embed_adapter: folder or hub id of an adapter that embeds only; None without one.
        adapters: folder or hub id of further adapters by name.
        first: folder or hub id of the adapter of the model without a named one.
    """

    adapter: str | None = None
    embed_adapter: str | None = None
    adapters: Mapping[str, str] = field(default_factory=dict)
    first: str | None = None

    @classmethod
    def of(
        cls,
        adapter: str | None,
        adapters: Mapping[str, str | Path] | None,
        embed_adapter: str | Path | None,
        *,
        mode: str,
    ) -> AdapterChoice | None:
        """Return the choice of a call of ``GritLM``; None if its adapter is to be merged.

        Raises:
            InputError: for an adapter without a name, or one that the mode does not use.
        """
        if not adapters and embed_adapter is None:
            return None
        if embed_adapter is not None and mode == "generative":
            raise InputError(
                f"embed_adapter={str(embed_adapter)!r} has no effect with mode='generative'; leave "
                "it out, or use mode='unified'"
            )
        if "" in (adapters or {}):
            raise InputError("an adapter has an empty name; expected adapters={'law': 'runs/law'}")
        named = {name: checkpoint.adapter_folder(each) for name, each in (adapters or {}).items()}
        embeds = None if embed_adapter is None else checkpoint.adapter_folder(embed_adapter)
        return cls(adapter, embeds, named, adapter)

    def named(self, name: str | None) -> AdapterChoice:
        """Return the choice of a named adapter; None chooses that of the model without a name.

        Raises:
            InputError: for a name that no adapter has.
        """
        if name is not None and name not in self.adapters:
            known = ", ".join(self.adapters) or "none"
            raise InputError(
                f"there is no adapter {name!r}{did_you_mean(name, self.adapters)}; the adapters "
                f"are: {known}"
            )
        return replace(self, adapter=self.first if name is None else self.adapters[name])


def require_same_tokens(parts: ModelParts, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse an adapter for embeddings with tokens that the generating model does not have.

    Raises:
        ModelError: for another vocabulary.
    """
    if parts.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"{parts.adapter}: its tokenizer has {len(parts.tokenizer)} tokens, that of the "
            f"generating model {len(tokenizer)}; embed_adapter needs the same tokens, so load it "
            "as adapter"
        )


class SharedBase:
    """A base model with its LM head, and the models with adapters over its weights.

    Args:
        source: folder or hub id of the base.
        loaded: the base.
        mode: ``unified``, ``generative``, or ``embedding`` for models without the LM head.
        compiled: whether one-token steps run as a compiled graph.
        longest: maximum length of a text in tokens; None for that of the model.
        changes: settings that replace those of the base and of every adapter.
        options: options of ``from_pretrained``, for the tokenizers.

    Attributes:
        source: as the argument.
        mode: as the argument.
        dtype_reason: reason for the dtype of the weights.
        lock: held while a model over the base is assembled.
    """

    def __init__(
        self,
        source: str,
        loaded: LoadedModel,
        *,
        mode: str,
        compiled: bool,
        longest: int | None = None,
        changes: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        self.source = source
        self.dtype_reason = loaded.dtype_reason
        self.mode = mode
        self._loaded = loaded
        with explained(source):
            self._lm = loaded.unified(compiled=compiled, longest=longest)
        self._longest = longest
        self._changes = changes
        self._hub = {name: options[name] for name in HUB_OPTIONS if name in options}
        self._parts: dict[str | None, ModelParts] = {}
        self._loading = threading.Lock()
        self.lock = threading.Lock()

    def parts(self, adapter: str | None) -> ModelParts:
        """Return the model with an adapter, loaded at the first call.

        Args:
            adapter: folder or hub id; None for the base alone.

        Raises:
            ModelError: for an adapter that cannot be loaded, or of another base.
        """
        with self._loading:
            if adapter not in self._parts:
                self._parts[adapter] = self._load(adapter)
            return self._parts[adapter]

    def _load(self, adapter: str | None) -> ModelParts:
        tokenizer = self._loaded.tokenizer
        settings = self._loaded.settings
        with_head = self.mode != "embedding"
        if adapter is not None:
            if self._lm.senses is not None:
                trained_towers.require_none(adapter, self.source)
            tokenizer, settings = load_tokenizer(self.source, adapter=adapter, hub=self._hub)
            lm = attach(self._lm, adapter, head=with_head)
            vocabulary.require_embeddings(tokenizer, lm.causal, adapter)
        else:
            lm = self._lm if with_head else self._lm.without_head(self._longest)
        settings = settings.but(**self._changes)
        with explained(adapter or self.source):
            if self.mode != "generative" and not settings.embeds_causally:
                require_views(lm)
            require_numbers(lm)
        projection = checkpoint.projection([adapter, self.source], settings, lm)
        return ModelParts(lm, tokenizer, settings, projection, adapter)
