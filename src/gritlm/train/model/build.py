"""Loading of the model to train: base, adapters, frozen parameters, projection."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from gritlm import runtime
from gritlm.distribution import install_hint
from gritlm.errors import InputError, MissingExtraError, ModelError
from gritlm.lm.attention import packed
from gritlm.lm.chat import template_for
from gritlm.lm.hub import checkpoint, export
from gritlm.lm.hub.load import LoadedModel, load, our_template
from gritlm.lm.hub.model_config import PROJECTION_FILE, ModelSettings
from gritlm.lm.hub.placement import Placement
from gritlm.lm.media import trained_towers
from gritlm.lm.self_check import require_views
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.lm.unified import UnifiedLM
from gritlm.train.config import ModelConfig, TrainConfig
from gritlm.train.model import hidden_states, lora, towers
from gritlm.train.model.module import ReferenceModel, Trainee

# Attentions that take 4-D masks and restarting positions, which training uses.
_ATTENTIONS = ("eager", "sdpa", packed.BOTH)


@dataclass(frozen=True)
class TrainingParts:
    """Module to train, its tokenizer and its settings.

    Attributes:
        trainee: the module.
        tokenizer: tokenizer of the base or the adapter.
        tokens: tokenizer with spans, which turns rows into prompts.
        settings: how the model embeds and chats.
        source: folder or hub id of the base.
        bf16: whether training runs under autocast to bfloat16.
        unread: names of adapter parameters that the mode does not use; they are not trained.
        resized: whether the initial adapter changed the number of embeddings.
        obstacle: reason why sentence-transformers cannot compute the vectors of the trained model;
            None if it can.
    """

    trainee: Trainee
    tokenizer: PreTrainedTokenizerBase
    tokens: SegmentTokenizer
    settings: ModelSettings
    source: str
    bf16: bool
    unread: tuple[str, ...] = ()
    resized: bool = False
    obstacle: str | None = None


def build(
    run: TrainConfig,
    *,
    device: str | None = None,
    weights: Path | None = None,
    complete: bool = True,
) -> TrainingParts:
    """Load the base and prepare it: adapters, frozen parameters, projection.

    Args:
        run: settings of the run.
        device: device to load to; None: the device of training.
        weights: checkpoint with the trained weights, to resume from.
        complete: whether to add the reference of the KL divergence and the memory savings; a
            sharded run adds them to the module of each process.

    Raises:
        ModelError: a base or adapter cannot be loaded, or its attention cannot be bidirectional.
        InputError: a setting does not fit the model.
        MissingExtraError: QLoRA or Liger kernels are not installed.
    """
    config = run.model
    bf16 = _bf16(run, runtime.choose_device(run.training.device))
    base, adapter = checkpoint.resolve(config.base, config.adapter)
    towers.require_no_small_senses(config.base, base)
    continued = weights is not None and not config.adapted
    loaded = _load(run, str(weights), device) if continued else _load_start(run, device)
    senses = loaded.senses
    if senses is not None:
        towers.prepare(senses, run)
        if weights is not None:
            trained_towers.load(senses, str(weights))
    settings = _settings(run, loaded)
    lm = UnifiedLM(loaded.model, senses=senses)
    _require_usable(lm, run, settings)
    obstacle = export.obstacle(lm, settings)  # before the weights are sharded
    if weights and settings.projection and not (weights / PROJECTION_FILE).is_file():
        raise ModelError(f"{weights} has no {PROJECTION_FILE}; the checkpoint is damaged")
    head = checkpoint.projection([weights] if weights else [adapter, base], settings, lm)
    if head is not None:
        head = head.to(torch.float32).requires_grad_(run.embeds)
    reference = None
    if complete and needs_reference(run):
        reference = load_reference(run, device) if continued else _copy(loaded.model)
    model = lora.add_adapters(loaded.model, config, weights or adapter, bf16=bf16)
    autocast = torch.bfloat16 if bf16 else None
    trainee = Trainee(model, settings, head, autocast=autocast, reference=reference, senses=senses)
    _freeze(trainee, config.freeze)
    trainee.keep_features()
    unread = () if run.writes else _freeze_head(trainee)
    _require_trained(trainee, run)
    if complete:
        enable_memory_savings(trainee, run)
    tokens = SegmentTokenizer(loaded.tokenizer)
    return TrainingParts(
        trainee, loaded.tokenizer, tokens, settings, base, bf16, unread, loaded.resized, obstacle
    )


def needs_reference(run: TrainConfig) -> bool:
    """Return whether a copy of the starting model is the reference of a KL divergence.

    With adapters it is not needed: without them the model is the starting model.
    """
    return bool(run.loss.kl_weight and run.writes and not run.model.adapted)


def load_reference(run: TrainConfig, device: str | None = None) -> ReferenceModel:
    """Load the starting model, as the reference of the KL divergence.

    Args:
        run: settings of the run.
        device: device to load to; None: the device of training.

    Raises:
        ModelError: the base or its adapter cannot be loaded.
    """
    return ReferenceModel(_load_start(run, device).model)


def _copy(model: Any) -> ReferenceModel:
    return ReferenceModel(copy.deepcopy(model))


def _require_usable(lm: UnifiedLM, run: TrainConfig, settings: ModelSettings) -> None:
    attends = lm.config._attn_implementation
    if attends not in _ATTENTIONS:
        raise InputError(
            f"[model]: attn_implementation = {attends!r} cannot be trained: it takes no 4-D "
            f"mask; use one of {', '.join(_ATTENTIONS)}"
        )
    packs = run.writes and run.training.packing and lm.senses is None
    if packs and not hidden_states.keeps_samples_apart(lm.decoder):
        raise InputError(
            f"[training]: {type(lm.causal).__name__} lets samples of a packed row attend to each "
            "other; use packing = false"
        )
    if run.embeds and not settings.embeds_causally:
        require_views(lm)
    if run.writes and run.data.rag:
        _require_blocks(lm, run, settings)


def _require_blocks(lm: UnifiedLM, run: TrainConfig, settings: ModelSettings) -> None:
    """Raise an error for RAG rows whose KV blocks the model could not serve.

    Raises:
        InputError: the message has the reason.
    """
    name = type(lm.causal).__name__
    if lm.rope() is None:
        raise InputError(
            f"[[data.rag]]: the keys of {name} cannot be moved, so it has no KV blocks"
        )
    if settings.embeds_causally and "bidirectional" in run.rag.blocks:
        raise InputError(
            f"[rag]: a model with attn = {settings.attn!r} makes causal blocks only; use blocks = "
            "['causal']"
        )


def _bf16(run: TrainConfig, device: torch.device) -> bool:
    if run.training.bf16 is not None:
        return run.training.bf16
    return runtime.choose_dtype(device).dtype == torch.bfloat16


def _load_start(run: TrainConfig, device: str | None) -> LoadedModel:
    """Load the starting model.

    With LoRA the initial adapter is trained further; otherwise it is merged into the weights.
    """
    base, adapter = checkpoint.resolve(run.model.base, run.model.adapter)
    return _load(run, base, device, adapter=adapter, merging=not run.model.adapted)


def _load(
    run: TrainConfig,
    source: str,
    device: str | None,
    *,
    adapter: str | None = None,
    merging: bool = True,
) -> LoadedModel:
    """Load a model: trained weights in float32 (master weights), frozen ones in bfloat16."""
    config = run.model
    train_device = runtime.choose_device(run.training.device)
    target = train_device if device is None else runtime.choose_device(device)
    options: dict[str, Any] = {}
    register_attention(run)
    if config.attn_implementation is not None:
        options["attn_implementation"] = config.attn_implementation
    if config.qlora:
        if train_device.type == "cpu":
            raise InputError(
                "[model]: qlora = true needs a GPU: its 4-bit kernels for CPUs have "
                "no gradient; use lora = true"
            )
        options["quantization_config"] = _quantization_config()
        options["device_map"] = {"": target}
    in_bf16 = config.adapted and _bf16(run, train_device)
    return load(
        source,
        mode="unified",
        placement=Placement(target),
        dtype=torch.bfloat16 if in_bf16 else torch.float32,
        adapter=adapter,
        options=options,
        merging=merging,
    )


def register_attention(run: TrainConfig) -> None:
    """Make gritlm's attention for concatenated texts known to transformers in this process.

    Args:
        run: settings of the run, which may name it.
    """
    if run.model.attn_implementation is not None:
        packed.register_both()


def _quantization_config() -> Any:
    try:
        import bitsandbytes  # noqa: F401
        from transformers import BitsAndBytesConfig
    except ImportError:
        raise MissingExtraError(
            f"qlora = true needs bitsandbytes: {install_hint('gpu')}, or use lora = true"
        ) from None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _settings(run: TrainConfig, loaded: LoadedModel) -> ModelSettings:
    """Return the settings of the model: of the run, else of its adapter, else of its base."""
    config = run.model
    found = loaded.settings
    found = found.but(**_overrides(config), trained_to_embed=run.embeds or found.trained_to_embed)
    if found.template == "gritlm":  # plain transformers must use the trained chat format too
        loaded.tokenizer.chat_template = our_template(loaded.tokenizer)
    template = template_for(loaded.tokenizer, found.template)
    return replace(found, template=template, fusion=None)  # measured on other weights


def _overrides(config: ModelConfig) -> dict[str, Any]:
    names = (
        "attn",
        "pooling_method",
        "normalized",
        "projection",
        "embed_eos",
        "template",
        "query_instruction",
    )
    return {name: getattr(config, name) for name in names}


def _freeze(trainee: Trainee, names: tuple[str, ...]) -> None:
    """Freeze parameters by substrings of their names.

    Raises:
        InputError: no parameter name has the substring.
    """
    if not trainee.adapted:
        trainee.model.requires_grad_(True)  # merging an adapter leaves weights frozen
    for part in names:
        found = [p for name, p in trainee.named_parameters() if part in name]
        if not found:
            raise InputError(f"[model]: freeze = {part!r} is in no parameter's name")
        for parameter in found:
            parameter.requires_grad_(False)


def _freeze_head(trainee: Trainee) -> tuple[str, ...]:
    """Freeze an LM head that no objective uses; return the names of its adapter parameters."""
    head = trainee.causal.get_output_embeddings()
    shared = set(trainee.decoder.parameters())  # tied weights
    alone = {p for p in head.parameters() if p not in shared and p.requires_grad}
    for parameter in alone:
        parameter.requires_grad_(False)
    if not trainee.adapted:
        return ()
    return tuple(name for name, p in trainee.named_parameters() if p in alone)


def _require_trained(trainee: Trainee, run: TrainConfig) -> None:
    """Raise an error if the run, or one of its objectives, trains no parameter.

    Raises:
        InputError: the message names the objective and a trained parameter.
    """
    if not any(p.requires_grad for p in trainee.parameters()):
        raise InputError(f"[model]: freeze leaves nothing to train in mode = {run.training.mode!r}")
    if run.embeds and run.writes:
        head = trainee.causal.get_output_embeddings()
        projection = trainee.projection
        _require_used(trainee, projection, "embedding", "generative")
        _require_used(trainee, head, "generative", "embedding")


def _require_used(trainee: Trainee, own: nn.Module | None, objective: str, other: str) -> None:
    """Raise an error if an objective has no trained parameter in decoder or own module."""
    modules = [trainee.decoder, trainee.towers, *([] if own is None else [own])]
    if not any(p.requires_grad for module in modules for p in module.parameters()):
        trained = next(name for name, p in trainee.named_parameters() if p.requires_grad)
        raise InputError(
            f"[training]: mode = 'unified', but the {objective} objective reads no trained "
            f"parameter (only such as {trained} are trained); use mode = {other!r}, or train more"
        )


def enable_memory_savings(trainee: Trainee, run: TrainConfig) -> None:
    """Turn on gradient checkpointing and Liger kernels, as the run sets them.

    Args:
        trainee: the module.
        run: settings of the run.

    Raises:
        MissingExtraError: Liger kernels are not installed.
    """
    if run.training.gradient_checkpointing:
        # transformers before about 5.18 has the older name only.
        newer = getattr(trainee.causal, "activation_checkpointing_enable", None)
        (newer or trainee.causal.gradient_checkpointing_enable)({"use_reentrant": False})
    if run.training.use_liger:
        try:
            from liger_kernel.transformers import _apply_liger_kernel_to_instance
        except ImportError:
            raise MissingExtraError(
                f"use_liger = true needs liger-kernel: {install_hint('gpu')}"
            ) from None
        _apply_liger_kernel_to_instance(model=trainee.causal)
