"""Senses of models of transformers: its towers, its projectors and its processors.

Shapes: M placeholders, D hidden size, T tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from gritlm.errors import GritLMError, InputError, ModelError, one_line
from gritlm.lm.attention.views import shell
from gritlm.lm.fingerprint import fingerprint
from gritlm.lm.media.processors import MediaProcessor
from gritlm.lm.media.senses import (
    DecodedImage,
    DecodedSound,
    Kind,
    MediaFeatures,
    MediaTokens,
    Senses,
    placeholder_ids,
    require_short,
)
from gritlm.lm.media.sounds import resampled
from gritlm.lm.media.text_decoder import decoder_name

# What a processor returns next to the inputs of the tower.
_OF_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


class NativeSenses(Senses):
    """Towers and projectors of a model of transformers, without its text decoder.

    Args:
        whole: the model, as transformers loads it. It loses its text decoder and its LM head.
        processor: its processor.

    Attributes:
        reads: kinds of media that models of the family read.
        around: tokens before and after an image or a sound where no chat template writes them.
        projectors: parts of the names of the projectors' parameters.
    """

    reads: ClassVar[frozenset[Kind]] = frozenset({"image"})
    around: ClassVar[Mapping[Kind, tuple[str, str]]] = {}
    projectors: Sequence[str] = (".connector.", ".multi_modal_projector.", ".image_newline")

    def __init__(self, whole: Any, processor: MediaProcessor) -> None:
        core = whole.base_model
        self._whole = whole
        self._decoder_name = decoder_name(core)
        self.decoder = core._modules.pop(self._decoder_name)
        whole._modules.pop("lm_head", None)
        self.module = core
        self.processor = processor.made
        self._settings = processor.settings
        self.kinds = self.reads
        names = {"image": "image_token", "sound": "audio_token"}
        self.media_tokens = {kind: getattr(processor.made, names[kind]) for kind in self.kinds}
        self._maker = fingerprint(core)

    def read(self, content: DecodedImage | DecodedSound) -> MediaTokens:
        """Return the tokens of an image or a sound, as the processor of the model makes them."""
        kind: Kind = "image" if isinstance(content, DecodedImage) else "sound"
        try:
            if isinstance(content, DecodedImage):
                found = self._processed_image(content)
            else:
                found = self._processed_sound(content)
        except GritLMError:
            raise
        except Exception as error:  # of a processor, in many types
            raise InputError(f"the processor of the model refuses it: {one_line(error)}") from error
        ids = torch.as_tensor(found["input_ids"]).flatten().tolist()
        inputs = {name: value for name, value in found.items() if name not in _OF_TEXT}
        return self._tokens(kind, ids, inputs)

    def _processed_image(self, content: DecodedImage) -> Mapping[str, Any]:
        from PIL import Image

        return self.processor(
            text=[self.media_tokens["image"]],
            images=[Image.fromarray(content.pixels)],
            add_special_tokens=False,
            return_tensors="pt",
        )

    def _processed_sound(self, content: DecodedSound) -> Mapping[str, Any]:
        rate = int(self.processor.feature_extractor.sampling_rate)
        self._require_short(content)
        return self.processor(
            text=[self.media_tokens["sound"]],
            audio=[resampled(content, rate).samples],
            sampling_rate=rate,
            add_special_tokens=False,
            return_tensors="pt",
        )

    def _require_short(self, content: DecodedSound) -> None:
        """Refuse a sound that the processor would cut."""
        longest = getattr(self.processor.feature_extractor, "chunk_length", None)
        if longest is not None:
            require_short(content, longest)

    def _tokens(self, kind: Kind, ids: list[int], inputs: Mapping[str, Any]) -> MediaTokens:
        placeholder = self._placeholder(kind)
        if placeholder not in ids:
            raise InputError(f"this {kind} is too small for a single token of the model")
        numbers = iter(placeholder_ids(inputs, self._maker, ids.count(placeholder)))
        before, after = self.around.get(kind, ("", ""))
        offsets, extent = self._offsets(inputs)
        return MediaTokens(
            kind=kind,
            ids=tuple(next(numbers) if each == placeholder else each for each in ids),
            placeholder=placeholder,
            inputs=inputs,
            before=self._special(before),
            after=self._special(after),
            offsets_3M=offsets,
            extent=extent,
        )

    def _special(self, token: str) -> tuple[int, ...]:
        return (self.processor.tokenizer.convert_tokens_to_ids(token),) if token else ()

    def _placeholder(self, kind: Kind) -> int:
        config = self.module.config
        return int(config.image_token_id if kind == "image" else config.audio_token_id)

    def _offsets(self, inputs: Mapping[str, Any]) -> tuple[Tensor | None, int]:
        """Return the positions of the placeholders, if they have three dimensions, and their
        extent."""
        del inputs
        return None, 0

    def features(self, tokens: MediaTokens) -> MediaFeatures:
        """Return the features of the placeholders: a pass of the tower and of its projector."""
        inputs = {name: self._placed(value) for name, value in tokens.inputs.items()}
        found = self._pass(tokens.kind, inputs)
        count = len(tokens.placeholders)
        if len(found.states_MD) != count:
            raise ModelError(
                f"{type(self.module).__name__} computes {len(found.states_MD)} states of an "
                f"{tokens.kind} with {count} tokens; its processor does not fit its weights"
            )
        return found

    def _placed(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        parameter = next(self.module.parameters())
        dtype = parameter.dtype if value.is_floating_point() else value.dtype
        return value.to(parameter.device, dtype)

    def _pass(self, kind: Kind, inputs: Mapping[str, Any]) -> MediaFeatures:
        del kind
        output = self.module.get_image_features(**inputs, return_dict=True)
        return MediaFeatures(as_rows(output.pooler_output))

    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Replace parameters of towers and projectors."""
        super().update(weights)
        self._maker = fingerprint(self.module)

    def save(self, model: Any, folder: Path) -> None:
        """Write the whole model and the parts of its processor to a folder."""
        whole = shell(self._whole)
        core = whole.base_model
        core._modules[self._decoder_name] = model.base_model
        if model is not model.base_model:
            whole._modules["lm_head"] = model.lm_head
        whole.save_pretrained(folder)
        for name in ("image_processor", "feature_extractor"):
            if (part := getattr(self.processor, name, None)) is not None:
                part.save_pretrained(folder)
        (folder / "processor_config.json").write_text(json.dumps(self._settings, indent=2) + "\n")


def as_rows(states: Any) -> Tensor:
    """Return states of any number of images or tiles as rows (M, D)."""
    if isinstance(states, Tensor):
        return states.flatten(0, -2)
    return torch.cat([as_rows(each) for each in states])
