"""Loading of weights, tokenizer and settings of a checkpoint, with early checks."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from gritlm import prompts, runtime
from gritlm.errors import InputError, ModelError, UnknownArgumentError, did_you_mean
from gritlm.lm import chat, threads
from gritlm.lm.chat_template import require_syntax
from gritlm.lm.hub import lora, merge, vocabulary, weights
from gritlm.lm.hub.load_errors import explained
from gritlm.lm.hub.model_config import FILE, UNSTATED, ModelSettings, read_settings
from gritlm.lm.hub.placement import Placement
from gritlm.lm.lean.weights import is_known
from gritlm.lm.media import trained_towers
from gritlm.lm.media.families import has_senses, require_family, with_senses
from gritlm.lm.media.processors import older_template
from gritlm.lm.media.senses import Senses
from gritlm.lm.quantization import layers, requirements
from gritlm.lm.unified import UnifiedLM

log = logging.getLogger(__name__)

# Keyword arguments that are passed to from_pretrained of transformers; others are refused.
FROM_PRETRAINED = (
    "attn_implementation",
    "cache_dir",
    "device_map",
    "distributed_config",
    "force_download",
    "local_files_only",
    "max_memory",
    "offload_buffers",
    "offload_folder",
    "quantization_config",
    "revision",
    "subfolder",
    "token",
    "tp_plan",
    "variant",
)
# Options by which transformers places the model itself.
_PLACING = ("device_map", "distributed_config", "quantization_config", "tp_plan")
_TOKENIZER = "the tokenizer"
# Those of them that concern the download.
HUB_OPTIONS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "revision",
    "subfolder",
    "token",
)


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer and settings.

    Attributes:
        model: the model, in evaluation mode.
        tokenizer: its tokenizer.
        settings: its settings.
        dtype_reason: reason for the dtype.
        resized: whether an adapter changed the number of embeddings.
        senses: its towers for images and sound; None for a model that reads text only.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: ModelSettings
    dtype_reason: str
    resized: bool = False
    senses: Senses | None = None

    def unified(self, *, compiled: bool, longest: int | None) -> UnifiedLM:
        """Return the model with a causal and a bidirectional view.

        Args:
            compiled: whether steps of few tokens are compiled.
            longest: maximum length of a text in tokens; None for that of the model.
        """
        return UnifiedLM(self.model, compiled=compiled, longest=longest, senses=self.senses)


def load(
    source: str,
    *,
    mode: str,
    placement: Placement,
    dtype: Any,
    adapter: str | None,
    options: dict[str, Any],
    merging: bool = True,
) -> LoadedModel:
    """Load a checkpoint with the classes of transformers, without remote code.

    Args:
        source: checkpoint folder or hub id.
        mode: ``unified``, ``generative``, or ``embedding`` (without the LM head).
        placement: where and how the weights are held.
        dtype: a torch dtype, its name, "auto" (as stored) or None (best for this machine).
        adapter: folder or hub id of a PEFT adapter. Its tokenizer, chat template and number of
            embeddings replace those of the base.
        options: other arguments of ``from_pretrained``.
        merging: whether to merge the adapter into the weights; False only prepares the base.

    Raises:
        UnknownArgumentError: for an unknown option.
        ModelError: for a checkpoint that cannot be loaded, with advice.
    """
    threads.adjust()
    _require_known(options)
    hub = {name: options[name] for name in HUB_OPTIONS if name in options}
    config = _checked_config(source, hub)
    placement.require_fit(config, source, adapter=adapter)
    target = runtime.choose_device(placement.device)
    placement.prepare(target, options, adapter=adapter)
    placed = any(options.get(name) is not None for name in _PLACING)
    chosen, reason = _dtype(dtype, target)
    _keep_soft_cap(config.get_text_config(), options)
    tokenizer, settings = load_tokenizer(source, adapter=adapter, hub=hub, config=config)
    with explained(source):
        # An adapter uses the names of the whole model, so the head is removed after merging.
        kind = _class_for(mode if adapter is None else "unified", config)
        model = weights.load_weights(kind, source, config, dtype=chosen, **options)
        _forget_causal(model.config)
        if not placed:
            model = model.to(target)
    threads.adjust()
    # An adapter has the names of the whole model, or those of its text decoder after training here.
    adapts_decoder = adapter is not None and _adapts_decoder(config, adapter, hub)
    applied = _Applied(adapter, mode, merging=merging, keeps_factors=placement.keeps_factors)
    model = model if adapts_decoder else applied.to(model)
    _require_end_ids(model, source)
    with explained(source, "the processor"):
        model, senses = with_senses(model, source, tokenizer, hub)
    if adapter is not None and adapts_decoder and senses is not None:
        model = applied.to(model)
        trained_towers.load(senses, adapter, hub)
    vocabulary.require_embeddings(tokenizer, model, adapter or source)
    if target.type == "cpu" and placement.quantization is not None:
        _quantize(model, placement.quantization, source, applied.factors)
    return LoadedModel(model.eval(), tokenizer, settings, reason, applied.resized, senses)


class _Applied:
    """An adapter that is applied to its base.

    Args:
        adapter: folder or hub id; None for no adapter.
        mode: mode of the model.
        merging: whether to merge the adapter; False only prepares the base.
        keeps_factors: whether the factors of its layers are kept.

    Attributes:
        resized: whether it changed the number of embeddings.
        factors: its factors by layer.
    """

    def __init__(
        self, adapter: str | None, mode: str, *, merging: bool, keeps_factors: bool
    ) -> None:
        self._adapter = adapter
        self._mode = mode
        self._merging = merging
        self._keeps_factors = keeps_factors
        self.resized = False
        self.factors: dict[Any, Any] = {}

    def to(self, model: Any) -> Any:
        """Return the model with the adapter."""
        adapter = self._adapter
        if adapter is None:
            return model
        with explained(adapter):
            self.resized = lora.fit(model, adapter)
            self.factors = merge.plain_factors(model, adapter) if self._keeps_factors else {}
            merged = merge.merge_adapter(model, adapter) if self._merging else model
        return merged.base_model if self._mode == "embedding" else merged


def _adapts_decoder(config: Any, adapter: str, hub: dict[str, Any]) -> bool:
    """Return whether an adapter has the names of the text decoder of a model with towers."""
    return has_senses(config) and trained_towers.has_file(adapter, hub)


def _keep_soft_cap(config: Any, options: dict[str, Any]) -> None:
    """Choose attention with a soft cap: before transformers 5.21, ``sdpa`` drops it (Gemma 2)."""
    if getattr(config, "attn_logit_softcapping", None):
        options.setdefault("attn_implementation", "eager")


def _quantize(model: Any, quantization: str, source: str, factors: dict[Any, Any]) -> None:
    """Quantise a model on the CPU, in place."""
    requirements.require_dtype(quantization, model.dtype)
    with explained(source):
        layers.quantize(model, quantization, joined=is_known(model), factors=factors)


def load_tokenizer(
    source: str,
    *,
    adapter: str | None = None,
    hub: dict[str, Any] | None = None,
    config: Any = None,
) -> tuple[PreTrainedTokenizerBase, ModelSettings]:
    """Load tokenizer and settings of a checkpoint, without its weights.

    Args:
        source: checkpoint folder or hub id.
        adapter: folder or hub id of a PEFT adapter. Its tokenizer, chat template and
            ``gritlm.json``, if any, replace those of the base.
        hub: options of ``from_pretrained`` for the download.
        config: configuration of the base, if it is loaded already.

    Raises:
        ModelError: for files that cannot be loaded, with advice.
    """
    hub = hub or {}
    _require_folder(source)
    with explained(source, _TOKENIZER):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, **hub
        )
        if tokenizer.chat_template is None:
            tokenizer.chat_template = older_template(source, hub)
    if adapter is not None:
        config = _config(source, hub) if config is None else config
        with explained(adapter, _TOKENIZER):
            tokenizer = vocabulary.with_adapter(tokenizer, adapter, config)
    settings = (adapter and settings_beside(adapter)) or settings_beside(source, hub) or UNSTATED
    with explained(adapter or source, _TOKENIZER):
        template = chat.template_for(tokenizer, settings.template)
        _prepare(tokenizer, settings, template)
    if settings is UNSTATED and template == "gritlm":  # like the published checkpoints
        settings = settings.but(trained_to_embed=True)
    return tokenizer, settings.but(template=template)


def _prepare(tokenizer: PreTrainedTokenizerBase, settings: ModelSettings, template: str) -> None:
    """Set chat template and padding of a tokenizer, after a test that it can tokenize."""
    tokenizer("a")
    if template == "gritlm" and (settings.template == template or tokenizer.chat_template is None):
        tokenizer.chat_template = our_template(tokenizer)
    elif tokenizer.chat_template is not None:
        try:
            require_syntax(tokenizer)
        except InputError as error:
            raise ModelError(f"{tokenizer.name_or_path}: {error}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"


def _require_known(options: dict[str, Any]) -> None:
    if options.pop("trust_remote_code", False):
        raise InputError(
            "trust_remote_code=True is not accepted: gritlm runs transformers' own classes only; "
            "leave it out (the code that published GritLM checkpoints name is not needed)"
        )
    for name in options:
        if name not in FROM_PRETRAINED:
            raise UnknownArgumentError(
                f"GritLM() got an unknown argument {name!r}{did_you_mean(name, FROM_PRETRAINED)}"
            )


def _require_folder(source: str) -> None:
    """Refuse a path that is not a checkpoint folder; a hub id is not checked."""
    folder = Path(source)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"{source}: no config.json in this folder; expected a checkpoint folder")
    if not folder.exists() and source.startswith(("/", "./", "../", "~")):
        raise ModelError(f"{source}: there is no such folder")


def _config(source: str, hub: dict[str, Any]) -> Any:
    _require_folder(source)
    with explained(source, "config.json"):
        return AutoConfig.from_pretrained(source, trust_remote_code=False, **hub)


def _checked_config(source: str, hub: dict[str, Any]) -> Any:
    config = _config(source, hub)
    _require_decoder(config, source)
    _require_sizes(config.get_text_config(), source)
    return config


def _require_decoder(config: Any, source: str) -> None:
    kind = config.model_type
    if has_senses(config):
        require_family(config, source)
        return
    encoder = getattr(config, "is_encoder_decoder", False) or not _is_decoder(config)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or encoder:
        raise ModelError(
            f"{source}: {kind!r} is not a decoder; gritlm takes models that write from left to "
            "right (Llama, Mistral, Mixtral, Qwen, Gemma, Phi, GPT-NeoX, ...)"
        )


# Sizes that transformers does not check.
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


def _require_sizes(config: Any, source: str) -> None:
    for name in _SIZES:
        value = getattr(config, name, None)
        if isinstance(value, int) and value < 1:
            raise ModelError(
                f"{source}: config.json has {name}={value}; expected a whole number >= 1; restore "
                "the file"
            )


def _require_end_ids(model: Any, source: str) -> None:
    """Refuse end tokens that are not token ids, with which an answer would never end."""
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    for number in found if isinstance(found, list) else [found]:
        if number is not None and (type(number) is not int or number < 0):
            raise ModelError(
                f"{source}: eos_token_id={found!r} in generation_config.json or config.json; "
                "expected a token id or a list of them; restore the file"
            )


def _is_decoder(config: Any) -> bool:
    """Return whether a model is a decoder; BERT-like encoders need ``is_decoder`` to be one."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return not masked or bool(getattr(config, "is_decoder", False))


def _dtype(dtype: Any, device: torch.device) -> tuple[Any, str]:
    if dtype is None:
        found = runtime.choose_dtype(device)
        log.info("number format %s: %s", found.dtype, found.reason)
        return found.dtype, found.reason
    if dtype == "auto":
        return "auto", "as stored in the checkpoint"
    known = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(known, torch.dtype) or not known.is_floating_point:
        raise InputError(
            f"dtype={dtype!r}; expected 'auto', 'float32', 'bfloat16', 'float16' or a torch dtype"
        )
    return known, "as asked for"


def _forget_causal(config: Any) -> None:
    """Drop the ``is_causal: true`` of saved folders, which transformers hands to each layer."""
    if config.__dict__.get("is_causal") is True:
        del config.is_causal


def _class_for(mode: str, config: Any) -> Any:
    if mode == "embedding":
        return AutoModel
    return AutoModelForMultimodalLM if has_senses(config) else AutoModelForCausalLM


def settings_beside(source: str, hub: dict[str, Any] | None = None) -> ModelSettings | None:
    """Return the settings in ``gritlm.json`` of a checkpoint or adapter; None without the file.

    Args:
        source: folder or hub id.
        hub: options of ``from_pretrained`` for the download.

    Raises:
        ModelError: for a file that is damaged or cannot be downloaded.
    """
    hub = hub or {}
    folder = Path(source)
    if folder.is_dir():
        folder = folder / hub.get("subfolder", "")
        return read_settings(folder) if (folder / FILE).is_file() else None
    from transformers.utils.hub import cached_file

    with explained(source):
        found = cached_file(source, FILE, _raise_exceptions_for_missing_entries=False, **hub)
    return None if found is None else read_settings(Path(found).parent)


def our_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the chat format of GritLM as a template, with the BOS if the tokenizer adds one.

    Some tokenizers have a BOS and do not add it; ``chat`` then has none either.
    """
    begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return (
        prompts.CHAT_TEMPLATE
        if begins
        else prompts.CHAT_TEMPLATE.removeprefix(prompts.TEMPLATE_BOS)
    )
