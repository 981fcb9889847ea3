"""Families of audio-language models.

Shapes: B windows of a sound, F mel frequencies, S steps of a window, M placeholders.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from transformers.masking_utils import create_bidirectional_mask

from gritlm.lm.media.native import NativeSenses, as_rows
from gritlm.lm.media.processors import MediaProcessor
from gritlm.lm.media.senses import DecodedSound, Kind, MediaFeatures
from gritlm.lm.media.sounds import resampled


class Qwen2AudioSenses(NativeSenses):
    """Qwen2-Audio: a sound of up to 30 s, a token for 40 ms of it."""

    reads: ClassVar[frozenset[Kind]] = frozenset({"sound"})
    around: ClassVar[Mapping[Kind, tuple[str, str]]] = {"sound": ("<|audio_bos|>", "<|audio_eos|>")}

    def _pass(self, kind: Kind, inputs: Mapping[str, Any]) -> MediaFeatures:
        """Return the states of the steps with sound, as the model computes them in its forward."""
        del kind
        tower = self.module.audio_tower
        real_BS = inputs["feature_attention_mask"]
        steps_B, tokens_B = tower._get_feat_extract_output_lengths(real_BS.sum(-1))
        steps = (inputs["input_features"].shape[-1] - 2) // 2 + 1
        inside_BS = torch.arange(steps, device=steps_B.device) < steps_B[:, None]
        mask = create_bidirectional_mask(
            config=tower.config,
            inputs_embeds=torch.zeros(*inside_BS.shape, 1, dtype=tower.dtype, device=tower.device),
            attention_mask=inside_BS.long(),
        )
        output = tower(inputs["input_features"], attention_mask=mask)
        states = self.module.multi_modal_projector(output.last_hidden_state)
        return MediaFeatures(states[0, : int(tokens_B[0])])


class VoxtralSenses(NativeSenses):
    """Voxtral: a sound of any length in windows of 30 s, a token for 80 ms."""

    reads: ClassVar[frozenset[Kind]] = frozenset({"sound"})
    around: ClassVar[Mapping[Kind, tuple[str, str]]] = {"sound": ("[BEGIN_AUDIO]", "")}

    def __init__(self, whole: Any, processor: MediaProcessor) -> None:
        super().__init__(whole, processor)
        # The code of transformers that formats conversations knows files alone, not media tokens.
        self.media_tokens = {}

    def _processed_sound(self, content: DecodedSound) -> Mapping[str, Any]:
        """Return the windows of a sound (B, F, S), padded to a whole number of them."""
        extractor = self.processor.feature_extractor
        samples = resampled(content, int(extractor.sampling_rate)).samples
        found = extractor(
            samples,
            sampling_rate=extractor.sampling_rate,
            padding=True,
            truncation=False,
            pad_to_multiple_of=extractor.n_samples,
            return_tensors="pt",
        )
        features = found["input_features"]
        windows = features.reshape(extractor.feature_size, -1, extractor.nb_max_frames)
        config = self.module.config.audio_config
        tokens = config.max_source_positions * config.hidden_size // config.intermediate_size
        count = windows.shape[1] * tokens
        return {
            "input_ids": [self._placeholder("sound")] * count,
            "input_features": windows.transpose(0, 1).contiguous(),
        }

    def _pass(self, kind: Kind, inputs: Mapping[str, Any]) -> MediaFeatures:
        del kind
        output = self.module.get_audio_features(**inputs, return_dict=True)
        return MediaFeatures(as_rows(output.pooler_output))
