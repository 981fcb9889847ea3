"""Towers and projectors of the small senses, on random weights."""

from __future__ import annotations

import struct
import subprocess
import sys
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
from gritlm.lm.media.towers.projector import (
    Projector,
    ProjectorConfig,
    mean_of_runs,
    word_runs,
)
from gritlm.lm.media.towers.projector_files import load_projector, save_projector
from gritlm.lm.media.towers.small_senses import SmallSenses
from gritlm.lm.media.towers.whisper import WhisperTower
from tests import tiny

_IMAGE = ProjectorConfig(
    features=12,
    stack=1,
    positions=9,
    queries=4,
    summary=2,
    width=16,
    layers=2,
    words=6,
    hidden=24,
)
_SOUND = ProjectorConfig(
    features=12,
    stack=2,
    positions=None,
    queries=None,
    summary=0,
    width=16,
    layers=2,
    words=6,
    hidden=24,
)


def _projector(config: ProjectorConfig) -> Projector:
    """Return a projector of random weights, whose words are the first tokens of a vocabulary."""
    torch.manual_seed(3)
    projector = Projector(config)
    projector.words_V = torch.arange(config.words, dtype=torch.int32)
    projector.use_embeddings(torch.randn(config.words + 5, config.hidden))
    return projector.eval()


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
    projector = _projector(config)
    sizes = (9, 9, 9) if config.queries else (1, 7, 20)
    features = [torch.randn(size, 12) for size in sizes]
    together = projector(features)
    for one, found in zip(features, together, strict=True):
        assert found.states_MD.shape == (projector.vectors(len(one)), 24)
        alone = projector([one])[0]
        assert torch.allclose(alone.states_MD, found.states_MD, atol=1e-6)
        assert torch.allclose(alone.logits_MV, found.logits_MV, atol=1e-5)


def test_word_token_is_a_mean_of_embeddings_before_training() -> None:
    projector = _projector(_SOUND)
    found = projector([torch.randn(8, 12)])[0]
    words_VD = torch.cat([projector.no_word[None], projector.embeddings_VD])
    assert torch.allclose(found.states_MD, found.logits_MV.softmax(-1) @ words_VD, atol=1e-6)


def test_runs_of_frames_join_the_same_word_and_skip_frames_without_one() -> None:
    heard = torch.tensor([0, 2, 2, 0, 2, 1, 1, 1, 3, 0])
    logits_MV = torch.nn.functional.one_hot(heard, 5).float()
    runs = word_runs(logits_MV)
    assert runs == [(1, 3), (4, 5), (5, 8), (8, 9)]
    states_MD = torch.arange(10.0)[:, None]
    assert mean_of_runs(states_MD, runs).flatten().tolist() == [1.5, 4, 6, 8]


def test_frames_without_any_word_leave_the_frame_nearest_to_one() -> None:
    logits_MV = torch.tensor([[3.0, 0, 0], [3.0, 1, 2], [3.0, 0, 1]])
    assert word_runs(logits_MV) == [(1, 2)]


def test_projector_file_round_trip(tmp_path: Path) -> None:
    projector = _projector(_IMAGE)
    save_projector(projector, "image", tmp_path)
    embeddings = torch.cat([projector.embeddings_VD, torch.zeros(1, 24)])
    again = load_projector(tmp_path / "image.safetensors", embeddings)
    features = [torch.randn(9, 12)]
    found, wanted = (each(features)[0].states_MD for each in (again, projector))
    assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 24), (20, 16)], ids=["vocabulary", "hidden"])
def test_projector_of_another_decoder_is_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    save_projector(_projector(_IMAGE), "image", tmp_path)
    with pytest.raises(ModelError, match=r"is for a decoder of hidden size 24 .* up to 5; this"):
        load_projector(tmp_path / "image.safetensors", torch.zeros(shape))


@pytest.mark.parametrize("content", [b"", b"no tensors", b"{}"])
def test_damaged_projector_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "image.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="is not the file of a projector"):
        load_projector(tmp_path / "image.safetensors", torch.zeros(9, 24))


def _small_model() -> GritLM:
    """Return a tiny text-only decoder with both towers, all of random weights."""
    torch.manual_seed(4)
    decoder = tiny.model()
    size = decoder.config.hidden_size
    words = 7
    image = ProjectorConfig(efficientnet.FEATURES, 1, 49, 4, 2, 16, 1, words=words, hidden=size)
    sound = ProjectorConfig(64, 2, None, None, 0, 16, 1, words=words, hidden=size)
    projectors = []
    for config in (image, sound):
        projector = Projector(config)
        projector.words_V = torch.arange(words, dtype=torch.int32)
        projector.use_embeddings(decoder.get_input_embeddings().weight)
        projectors.append(projector)
    tokenizer = tiny.tokenizer()
    senses = SmallSenses(
        (EfficientNetLite0(), projectors[0]),
        (WhisperTower(_whisper()[1]), projectors[1]),
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
    heard = model.encoder.lm.senses.read(
        DecodedSound(sound["array"], whisper.RATE)  # type: ignore[arg-type]
    )
    assert len(blocks[0]) == len(blocks[1])
    assert len(blocks[2]) - len(blocks[0]) == len(heard.ids) - 6
    assert not torch.equal(blocks[0].token_ids, blocks[1].token_ids)
    assert abs(vectors[0] - vectors[1]).max() > 1e-5
    assert np.allclose(model.encode(["a text"])[0], vectors[3], atol=0)


def test_projector_behind_a_frozen_tower_has_gradients() -> None:
    senses = _small_model().lm.senses
    assert senses is not None
    tokens = senses.read(DecodedImage(np.zeros((8, 8, 3), np.uint8)))
    senses.features(tokens).states_MD.sum().backward()
    trained = [name for name, each in senses.module.named_parameters() if each.grad is not None]
    assert trained
    assert all(name.startswith("image_projector.") for name in trained)


def test_towers_on_another_device_get_their_inputs_there() -> None:
    senses = _small_model().lm.senses
    assert senses is not None
    image = senses.read(DecodedImage(np.zeros((8, 8, 3), np.uint8)))
    senses.module.to("meta")
    assert senses.features(image).states_MD.device.type == "meta"
    tower = WhisperTower(_whisper()[1])
    tower.encoder.to("meta")
    assert tower.read(_sound(0.3)).device.type == "meta"


def test_sound_longer_than_the_window_is_refused() -> None:
    senses = _small_model().lm.senses
    assert senses is not None
    with pytest.raises(InputError, match=r"it is 31\.0 s long, the model hears 30 s"):
        senses.read(DecodedSound(np.ones(31_000, np.float32), 1_000))


def test_a_text_model_is_imported_without_pillow_and_without_towers() -> None:
    code = (
        "import sys; sys.modules['PIL'] = None; import gritlm.lm.gritlm; "
        "print([name for name in sys.modules if name.startswith('gritlm.lm.media.towers.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    towers = {"efficientnet", "whisper", "small_senses", "published"}
    assert not [name for name in towers if f"towers.{name}'" in done.stdout]


def test_without_pillow_the_small_senses_name_the_extra() -> None:
    code = (
        "import sys; sys.modules['PIL'] = None; from tests.lm.media.test_towers import "
        "_small_model; _small_model().encode([{'image': b'picture'}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError" in done.stderr.splitlines()[-1], done.stderr
    assert "media" in done.stderr.splitlines()[-1]
