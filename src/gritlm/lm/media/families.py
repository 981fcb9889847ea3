"""Families of models that read images or sound, by the model type in their configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gritlm.errors import ModelError
from gritlm.lm.media.hearing import Qwen2AudioSenses, VoxtralSenses
from gritlm.lm.media.native import NativeSenses
from gritlm.lm.media.processors import load_processor
from gritlm.lm.media.text_decoder import text_decoder
from gritlm.lm.media.vision import Gemma3Senses, Qwen3VisionSenses, QwenVisionSenses

FAMILIES: dict[str, type[NativeSenses]] = {
    "gemma3": Gemma3Senses,
    "idefics3": NativeSenses,
    "internvl": NativeSenses,
    "llava_onevision": NativeSenses,
    "qwen2_5_vl": QwenVisionSenses,
    "qwen2_audio": Qwen2AudioSenses,
    "qwen2_vl": QwenVisionSenses,
    "qwen3_vl": Qwen3VisionSenses,
    "smolvlm": NativeSenses,
    "voxtral": VoxtralSenses,
}

# Families that are known and not taken, with the reason.
REFUSED = {
    "gemma3n": "its image tower needs timm, and its last layers share the keys of earlier ones, so "
    "a pass leaves no KV block of all layers",
}


def has_senses(config: Any) -> bool:
    """Return whether a configuration has parts for other things than text."""
    return config.get_text_config() is not config


def require_family(config: Any, source: str) -> None:
    """Refuse a model with towers of a family that is not known.

    Args:
        config: configuration of the model.
        source: folder or hub id, for the message.

    Raises:
        ModelError: for another family, by its name.
    """
    kind = config.model_type
    if kind in REFUSED:
        raise ModelError(
            f"{source}: {kind!r} is not taken: {REFUSED[kind]}; use {', '.join(FAMILIES)}"
        )
    if kind not in FAMILIES:
        raise ModelError(
            f"{source}: {kind!r} reads more than text, in a way that gritlm does not know; it "
            f"takes {', '.join(FAMILIES)}; to use its text decoder, save that as a checkpoint of "
            "its own"
        )


def with_senses(
    whole: Any, source: str, tokenizer: Any, hub: Mapping[str, Any]
) -> tuple[Any, NativeSenses | None]:
    """Return the text decoder of a model, with its LM head if any, and its senses.

    A model that reads text only is returned as it is.

    Args:
        whole: the model, as transformers loads it. It loses its text decoder and its LM head.
        source: folder or hub id.
        tokenizer: its tokenizer.
        hub: options of ``from_pretrained`` for the download.
    """
    if not has_senses(whole.config):
        return whole, None
    processor = load_processor(source, whole.config, tokenizer, hub)
    model = text_decoder(whole)
    return model, FAMILIES[whole.config.model_type](whole.eval(), processor)
