"""Processors of checkpoints: from images and sounds to token ids and inputs of the towers.

They are those of transformers, with its PIL and numpy backends. Processors of models that read
videos too need torchvision for these; videos are not read here, so their part is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gritlm.errors import ModelError, require_libraries

_LEGACY_TEMPLATE = "chat_template.json"


@dataclass(frozen=True)
class MediaProcessor:
    """Processor of a checkpoint.

    Attributes:
        made: the processor, of transformers.
        settings: its own settings in ``processor_config.json``, without those of its parts.
    """

    made: Any
    settings: dict[str, Any]


def load_processor(
    source: str, config: Any, tokenizer: Any, hub: Mapping[str, Any]
) -> MediaProcessor:
    """Return the processor of a checkpoint, without its part for videos.

    Args:
        source: folder or hub id.
        config: configuration of the checkpoint.
        tokenizer: its tokenizer, to which the processor may add its special tokens.
        hub: options of ``from_pretrained`` for the download.

    Raises:
        MissingExtraError: when Pillow is not installed.
    """
    kind = _kind(config)
    parts = [_part(name, source, tokenizer, hub) for name in kind.get_attributes()]
    found, _ = kind.get_processor_dict(source, **hub)
    attributes = [*kind.get_attributes(), "processor_class", "chat_template", "auto_map"]
    settings = {name: value for name, value in found.items() if name not in attributes}
    return MediaProcessor(_without_video(kind).from_args_and_dict(parts, settings), settings)


def _kind(config: Any) -> Any:
    """Return the class of the processor of a model.

    That of SmolVLM needs a library for the texts around videos; for images it is that of Idefics3.
    """
    from transformers import Idefics3Processor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    return Idefics3Processor if config.model_type == "smolvlm" else PROCESSOR_MAPPING[type(config)]


def _part(name: str, source: str, tokenizer: Any, hub: Mapping[str, Any]) -> Any:
    """Return a part of a processor; None for the part for videos."""
    if name == "tokenizer":
        return tokenizer
    if name == "image_processor":
        require_libraries(["PIL"], what="a model that reads images needs", extra="media")
        from transformers import AutoImageProcessor

        return AutoImageProcessor.from_pretrained(source, backend="pil", **hub)
    if name in ("feature_extractor", "audio_processor"):
        from transformers import AutoFeatureExtractor

        return AutoFeatureExtractor.from_pretrained(source, **hub)
    return None


def _without_video(kind: type[Any]) -> type[Any]:
    """Return a class of processors that does not check the type of parts that are missing."""

    class WithoutVideo(kind):  # type: ignore[misc]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument is None:
                return type(None)
            return super().check_argument_for_proper_class(argument_name, argument)

    return WithoutVideo


def older_template(source: str, hub: Mapping[str, Any]) -> str | None:
    """Return the chat template in the file of older processors; None without that file.

    Args:
        source: folder or hub id.
        hub: options of ``from_pretrained`` for the download.

    Raises:
        ModelError: for a file that is damaged.
    """
    from transformers.utils.hub import cached_file

    path = cached_file(source, _LEGACY_TEMPLATE, _raise_exceptions_for_missing_entries=False, **hub)
    if path is None:
        return None
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: no valid JSON ({error}); download it again") from None
    template = found.get("chat_template") if isinstance(found, dict) else None
    return template if isinstance(template, str) else None
