"""Towers and projectors of the small senses, on random weights."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from gritlm import GritLM
from gritlm.errors import InputError, ModelError
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.media.senses import DecodedImage, DecodedSound
from gritlm.lm.media.towers import efficientnet, whisper
from gritlm.lm.media.towers.ctranslate2_file import read_weights
from gritlm.lm.media.towers.efficientnet import EfficientNetLite0
from gritlm.lm.media.towers.projector import Projector, ProjectorConfig
from gritlm.lm.media.towers.small_senses import SmallSenses
from gritlm.lm.media.towers.whisper import WhisperTower
from tests import tiny

_IMAGE = ProjectorConfig(
    features=12, stack=1, positions=9, queries=4, width=16, layers=2, hidden=24, scale=0.1
)
_SOUND = ProjectorConfig(
    features=12, stack=4, positions=20, queries=None, width=16, layers=2, hidden=24, scale=0.1
)


def _whisper(layers: int = 2) -> tuple[WhisperEncoder, dict[str, Tensor]]:
    """Return an encoder of transformers, and its weights under CTranslate2's names."""
    torch.manual_seed(1)
    config = WhisperConfig(
        d_model=64,
        num_mel_bins=80,
        encoder_layers=layers,
        encoder_attention_heads=1,
        encoder_ffn_dim=32,
        max_source_positions=1500,
    )
    encoder = WhisperEncoder(config).eval()
    found = {"position_encodings/encodings": encoder.embed_positions.weight}
    for name, module in (("conv1", encoder.conv1), ("conv2", encoder.conv2)):
        found |= {f"{name}/weight": module.weight, f"{name}/bias": module.bias}
    found |= _norm("layer_norm", encoder.layer_norm)
    for index, layer in enumerate(encoder.layers):
        at = f"layer_{index}/"
        own = layer.self_attn
        queries = [own.q_proj, own.k_proj, own.v_proj]
        found |= _norm(f"{at}self_attention/layer_norm", layer.self_attn_layer_norm)
        found |= _norm(f"{at}ffn/layer_norm", layer.final_layer_norm)
        found[f"{at}self_attention/linear_0/weight"] = torch.cat([q.weight for q in queries])
        bias = [torch.zeros(64) if q.bias is None else q.bias for q in queries]
        found[f"{at}self_attention/linear_0/bias"] = torch.cat(bias)
        for name, linear in (
            ("self_attention/linear_1", own.out_proj),
            ("ffn/linear_0", layer.fc1),
            ("ffn/linear_1", layer.fc2),
        ):
            found |= {f"{at}{name}/weight": linear.weight, f"{at}{name}/bias": linear.bias}
    return encoder, {name: value.detach() for name, value in found.items()}


def _norm(name: str, module: nn.LayerNorm) -> dict[str, Tensor]:
    return {f"{name}/gamma": module.weight, f"{name}/beta": module.bias}


def _sound(seconds: float) -> np.ndarray:
    return np.random.default_rng(2).normal(0, 0.1, int(seconds * whisper.RATE)).astype(np.float32)


def _written(path: Path, tensors: dict[str, np.ndarray], version: int = 6) -> Path:
    """Write a model file as CTranslate2 does."""
    codes = {np.dtype(np.float32): 0, np.dtype(np.float16): 4, np.dtype(np.int32): 3}
    with path.open("wb") as file:
        file.write(struct.pack("<I", version))
        _name(file, "WhisperSpec")
        file.write(struct.pack("<II", 3, len(tensors)))
        for name, tensor in tensors.items():
            _name(file, name)
            file.write(struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape))
            file.write(struct.pack("<BI", codes[tensor.dtype], tensor.nbytes))
            file.write(tensor.tobytes())
    return path


def _name(file: BinaryIO, text: str) -> None:
    data = text.encode() + b"\0"
    file.write(struct.pack("<H", len(data)) + data)


def test_window_of_thirty_seconds_is_what_transformers_computes() -> None:
    encoder, weights = _whisper()
    tower = WhisperTower(weights)
    samples = _sound(whisper.WINDOW)
    mel = tower.spectrogram(samples)
    assert mel.shape == (1, 80, 3000)
    with torch.inference_mode():
        expected = encoder(mel).last_hidden_state[0]
    assert torch.allclose(tower.read(samples), expected, atol=1e-5)


@pytest.mark.parametrize("seconds", [0.005, 0.33, 2.0])
def test_short_sound_has_fifty_features_a_second(seconds: float) -> None:
    tower = WhisperTower(_whisper()[1])
    samples = _sound(seconds)
    assert (
        len(tower.read(samples)) == whisper.frames(len(samples)) == max(1, -(-len(samples) // 320))
    )


def test_weights_of_a_ctranslate2_file(tmp_path: Path) -> None:
    half = np.arange(6, dtype=np.float16).reshape(2, 3)
    file = _written(tmp_path / "model.bin", {"encoder/a": half, "decoder/b": np.ones(4, np.int32)})
    found = read_weights(file, prefix="encoder/")
    assert list(found) == ["a"]
    assert torch.equal(found["a"], torch.from_numpy(half))


@pytest.mark.parametrize("kept", [3, 30, 50])
def test_cut_ctranslate2_file_is_refused(tmp_path: Path, kept: int) -> None:
    file = _written(tmp_path / "model.bin", {"encoder/a": np.ones((4, 4), np.float32)})
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"not a whole CTranslate2 model .*; fetch it again"):
        read_weights(file, prefix="encoder/")


def test_other_version_of_ctranslate2_is_refused(tmp_path: Path) -> None:
    file = _written(tmp_path / "model.bin", {}, version=5)
    with pytest.raises(ModelError, match="CTranslate2 format 5; expected 6"):
        read_weights(file, prefix="encoder/")


def test_image_tower_gives_a_grid_of_features_for_any_shape() -> None:
    tower = EfficientNetLite0()
    for height, width in ((1, 1), (30, 200), (224, 224)):
        pixels = efficientnet.prepared(np.zeros((height, width, 3), np.uint8))
        features = tower(torch.from_numpy(pixels)[None])
        assert features.shape == (1, efficientnet.GRID**2, efficientnet.FEATURES)


def test_image_is_padded_with_white() -> None:
    pixels = efficientnet.prepared(np.zeros((50, 200, 3), np.uint8))
    assert pixels[:, 0].min() == pytest.approx(1, abs=0.01)
    assert pixels[:, 112].max() == pytest.approx(-127 / 128, abs=0.01)


@pytest.mark.parametrize("config", [_IMAGE, _SOUND], ids=["image", "sound"])
def test_projector_of_a_batch_is_that_of_each_alone(config: ProjectorConfig) -> None:
    torch.manual_seed(3)
    projector = Projector(config).eval()
    sizes = (9, 9, 9) if config.queries else (1, 7, 20)
    features = [torch.randn(size, 12) for size in sizes]
    together = projector(features)
    for one, states in zip(features, together, strict=True):
        assert states.shape == (projector.tokens(len(one)), 24)
        assert torch.allclose(projector([one])[0], states, atol=1e-6)


def test_projector_has_the_scale_of_the_embeddings() -> None:
    torch.manual_seed(3)
    config = ProjectorConfig(64, 1, 49, 16, 128, 2, hidden=576, scale=0.14)
    states = Projector(config).eval()([torch.randn(49, 64)])[0]
    assert 0.1 < states.std() < 0.2


def _small_model() -> GritLM:
    """Return a tiny text-only decoder with both towers, all of random weights."""
    torch.manual_seed(4)
    decoder = tiny.model()
    size = decoder.config.hidden_size
    image = ProjectorConfig(efficientnet.FEATURES, 1, 49, 4, 16, 1, hidden=size, scale=0.1)
    sound = ProjectorConfig(64, 4, 375, None, 16, 1, hidden=size, scale=0.1)
    tokenizer = tiny.tokenizer()
    senses = SmallSenses(
        (EfficientNetLite0(), Projector(image)),
        (WhisperTower(_whisper()[1]), Projector(sound)),
        placeholder=tokenizer.eos_token_id,
        maker="test",
    )
    settings = ModelSettings(template="gritlm")
    return GritLM.around(decoder, tokenizer, settings, senses=senses)


def test_text_only_decoder_reads_images_and_sound_by_small_towers() -> None:
    model = _small_model()
    pictures = [np.full((20, 30, 3), shade, np.uint8) for shade in (0, 200)]
    sound = {"array": _sound(0.5), "sampling_rate": whisper.RATE}
    vectors, blocks = model.encode([*pictures, sound, "a text"], get_cache=True)
    assert vectors.shape == (4, model.embedding_dimension)
    assert [len(block) - len(blocks[0]) for block in blocks[:3]] == [0, 0, 7 - 4]
    assert not torch.equal(blocks[0].token_ids, blocks[1].token_ids)
    assert abs(vectors[0] - vectors[1]).max() > 1e-3
    assert np.allclose(model.encode(["a text"])[0], vectors[3], atol=0)


def test_projector_behind_a_frozen_tower_has_gradients() -> None:
    senses = _small_model().lm.senses
    assert senses is not None
    tokens = senses.read(DecodedImage(np.zeros((8, 8, 3), np.uint8)))
    senses.features(tokens).states_MD.sum().backward()
    trained = [name for name, each in senses.module.named_parameters() if each.grad is not None]
    assert trained
    assert all(name.startswith("image_projector.") for name in trained)


def test_sound_longer_than_the_window_is_refused() -> None:
    senses = _small_model().lm.senses
    assert senses is not None
    with pytest.raises(InputError, match=r"it is 31\.0 s long, the model hears 30 s"):
        senses.read(DecodedSound(np.ones(31_000, np.float32), 1_000))
