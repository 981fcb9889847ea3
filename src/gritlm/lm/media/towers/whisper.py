"""The encoder of Whisper (Radford et al., 2022; MIT) as a sound tower.

Shapes: B windows, N frames of 10 ms, M frames of 20 ms, F features of a frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

RATE = 16_000  # samples a second
WINDOW = 30  # seconds that the encoder reads in one pass
_HOP = 320  # samples of a frame of the output
_SHORTEST = 640  # samples; the spectrogram is not defined for fewer than 201


def frames(samples: int) -> int:
    """Return the number of frames of the output for a number of samples."""
    return max(1, -(-samples // _HOP))


class WhisperTower:
    """Whisper's encoder, with its log-mel spectrogram, in evaluation mode.

    Args:
        weights: tensors of the encoder under CTranslate2's names.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        size, bands, _ = weights["conv1/weight"].shape
        layers = len(
            {name.split("/")[0] for name in weights if name.startswith("layer_")} - {"layer_norm"}
        )
        config = WhisperConfig(
            d_model=size,
            num_mel_bins=bands,
            encoder_layers=layers,
            encoder_attention_heads=size // 64,
            encoder_ffn_dim=weights["layer_0/ffn/linear_0/weight"].shape[0],
            max_source_positions=len(weights["position_encodings/encodings"]),
        )
        self.features = size
        self._spectrogram = WhisperFeatureExtractor(feature_size=bands)
        self.encoder = WhisperEncoder(config).eval().requires_grad_(False)
        self.encoder.load_state_dict(_renamed(weights, layers))

    def spectrogram(self, samples: NDArray[np.float32]) -> Tensor:
        """Return the log-mel spectrogram (1, bands, N) of a sound, padded to whole frames."""
        whole = max(_SHORTEST, frames(len(samples)) * _HOP)
        padded = np.pad(samples, (0, whole - len(samples)))
        mel = self._spectrogram(
            padded, sampling_rate=RATE, padding="do_not_pad", return_tensors="pt"
        )
        return mel.input_features.to(self.encoder.conv1.weight)

    @torch.no_grad()
    def read(self, samples: NDArray[np.float32]) -> Tensor:
        """Return the features (M, F) of a sound of at most 30 seconds.

        The encoder was trained on windows of 30 seconds. It reads shorter ones here, so that the
        time grows with the sound; the projector is trained on these features.

        Args:
            samples: samples from -1 to 1, at 16 kHz.
        """
        hidden_BFM = F.gelu(self.encoder.conv1(self.spectrogram(samples)))
        hidden_BMF = F.gelu(self.encoder.conv2(hidden_BFM)).transpose(1, 2)
        hidden_BMF = hidden_BMF + self.encoder.embed_positions.weight[: hidden_BMF.shape[1]]
        for layer in self.encoder.layers:
            hidden_BMF = _first(layer(hidden_BMF, None))
        return self.encoder.layer_norm(hidden_BMF)[0, : frames(len(samples))]


def _first(output: Any) -> Tensor:
    """Return the states of a layer's output, which is a tuple in some versions."""
    return output[0] if isinstance(output, tuple) else output


_NAMES = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
_LEAVES = {"gamma": "weight", "beta": "bias"}


def _renamed(weights: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Return CTranslate2's tensors under the names of transformers, in float32."""
    found: dict[str, Any] = {"embed_positions.weight": weights["position_encodings/encodings"]}
    for name in ("conv1", "conv2"):
        for leaf in ("weight", "bias"):
            found[f"{name}.{leaf}"] = weights[f"{name}/{leaf}"]
    for leaf, ours in _LEAVES.items():
        found[f"layer_norm.{ours}"] = weights[f"layer_norm/{leaf}"]
    for index in range(layers):
        theirs = f"layer_{index}/"
        for part, ours in _NAMES.items():
            for leaf in ("gamma", "beta") if "norm" in part else ("weight", "bias"):
                key = f"layers.{index}.{ours}.{_LEAVES.get(leaf, leaf)}"
                found[key] = weights[f"{theirs}{part}/{leaf}"]
        stacked = f"{theirs}self_attention/linear_0"
        for leaf in ("weight", "bias"):
            parts = weights[f"{stacked}/{leaf}"].chunk(3)
            for part, value in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                if (part, leaf) != ("k_proj", "bias"):  # zero: the model has none
                    found[f"layers.{index}.self_attn.{part}.{leaf}"] = value
    return {name: value.float() for name, value in found.items()}
