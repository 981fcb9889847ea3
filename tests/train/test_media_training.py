"""Runs of models that see or hear: what they save, resume, and two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gritlm import GritLM
from gritlm.errors import GritLMError, InputError
from gritlm.train.model.build import build
from gritlm.train.run import checkpoint, metrics_log
from gritlm.train.trainer import train
from tests.train import media_runs, runs
from tests.train.ranks import joined, spawn

BOUND = 1e-4
VECTORS = 1e-5
FAMILIES = ["smolvlm", "qwen2_audio", "qwen2_5_vl"]


def inputs(folder: Path, family: str) -> list[Any]:
    if family == "qwen2_audio":
        return [{"audio": folder / "1.wav"}, {"audio": folder / "2.wav", "text": "what"}, "a text"]
    return [{"image": folder / "1.png"}, {"image": folder / "2.png", "text": "what"}, "a text"]


def vectors(model: GritLM, folder: Path, family: str) -> torch.Tensor:
    return torch.from_numpy(model.encode(inputs(folder, family)))


@pytest.mark.parametrize("way", ["lora", "merged", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_run_saves_embeds_and_chats_as_it_did_in_training(tmp_path, family, way):
    found: dict[str, Any] = {}

    def evaluate(model: GritLM) -> dict[str, float]:
        found["vectors"] = vectors(model, tmp_path, family)
        return {}

    run = media_runs.make(
        tmp_path,
        family,
        model={"lora": way != "full"},
        training={"save_merged": way == "merged", "max_steps": 2, "learning_rate": 1e-2},
    )
    result = train(run, evaluate=evaluate, progress=False)
    loaded = GritLM(result.output_dir, dtype="float32", device="cpu")
    base = GritLM(run.model.base, dtype="float32", device="cpu")
    ours = vectors(loaded, tmp_path, family)
    assert float((ours - found["vectors"]).abs().max()) <= VECTORS
    assert float((ours - vectors(base, tmp_path, family)).abs().max()) > 0.01
    trained = loaded.senses.module.state_dict()
    before = base.senses.module.state_dict()
    changed = {name for name, value in trained.items() if not torch.equal(value, before[name])}
    assert changed
    assert all(
        any(word in name for word in ("projector", "connector", "merger")) for name in changed
    )
    tokens, known = ([each.senses.read(content(each)).ids] for each in (loaded, base))
    assert tokens != known  # KV blocks of other projectors are not taken
    assert loaded.chat("say 1", max_new_tokens=2) is not None
    if way == "lora":
        assert load_file(result.output_dir / "towers.safetensors").keys() == changed


def content(model: GritLM) -> Any:
    from gritlm.lm.media.senses import DecodedImage, DecodedSound
    from tests.lm.media.conftest import image, sound

    if "image" in model.senses.kinds:
        import numpy as np

        return DecodedImage(np.asarray(image()))
    return DecodedSound(sound()["array"], 16000)


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("family", ["smolvlm", "qwen2_audio"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, family, lora):
    run = media_runs.make(
        tmp_path, family, model={"lora": lora}, training={"max_steps": 4, "save_steps": 2}
    )
    train(run, progress=False)
    other = runs.elsewhere(
        run,
        "resumed",
        resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-000002"),
    )
    train(other, progress=False)
    ours = runs.losses(run)[2:]
    assert ours == runs.losses(other)
    runs.assert_same_weights(tmp_path / "out", tmp_path / "resumed", 0.0)
    if lora:
        one, two = (
            load_file(tmp_path / name / "towers.safetensors") for name in ("out", "resumed")
        )
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_losses_fall_on_images(tmp_path):
    run = media_runs.make(
        tmp_path, "smolvlm", model={"lora": True}, training={"max_steps": 12, "learning_rate": 5e-3}
    )
    train(run, progress=False)
    entries = [each for each in metrics_log.read(tmp_path / "out") if "loss" in each]
    first, last = (sum(e["loss"] for e in part) / 3 for part in (entries[:3], entries[-3:]))
    assert last < first - 0.5


def _train_share(rank: int, folder: str) -> None:
    home = Path(folder)
    for family in ("smolvlm", "qwen2_audio"):
        for lora in (True, False):
            place = home / f"{family}-{lora}"
            with joined(rank, f"{place}/meeting"):
                train(_two(place, family, lora), progress=False)


def _one(folder: Path, family: str, lora: bool) -> Any:
    return media_runs.make(
        folder,
        family,
        model={"lora": lora},
        training={
            "max_steps": 3,
            "gradient_accumulation_steps": 2,
            "per_device_train_batch_size": 4,
            "per_device_generative_bs": 2,
        },
    )


def _two(folder: Path, family: str, lora: bool) -> Any:
    return runs.elsewhere(_one(folder, family, lora), "two", gradient_accumulation_steps=1)


@pytest.mark.distributed
def test_two_processes_train_as_one(tmp_path):
    for family in ("smolvlm", "qwen2_audio"):
        for lora in (True, False):
            place = tmp_path / f"{family}-{lora}"
            place.mkdir()
            train(_one(place, family, lora), progress=False)
    spawn(_train_share, tmp_path)
    for place in sorted(tmp_path.iterdir()):
        if place.is_dir():
            family, lora = place.name.split("-")
            one, two = _one(place, family, lora == "True"), _two(place, family, lora == "True")
            runs.assert_same_course(one, two, BOUND)
            runs.assert_same_weights(place / "out", place / "two", BOUND)


def test_a_broken_image_that_was_not_checked_ends_the_run_with_its_line(tmp_path):
    run = media_runs.make(tmp_path, training={"mode": "embedding"}, data={"check_media": False})
    for number in range(media_runs.FILES):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(
        InputError, match=r"media.jsonl:\d+: the image of (query|pos|neg).* is not an image"
    ):
        train(run, progress=False)


@pytest.fixture
def adapter(tmp_path) -> tuple[Path, str]:
    """The folder of an adapter as it is at the start of a run, and its base."""
    run = media_runs.make(tmp_path, model={"lora": True})
    folder = tmp_path / "adapter"
    folder.mkdir()
    checkpoint.write_model(folder, build(run), None)
    return folder, str(run.model.base)


def refused(folder: Path, **options: Any) -> str:
    with pytest.raises(GritLMError) as caught:
        GritLM(folder, dtype="float32", device="cpu", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_adapter_with_damaged_or_foreign_projectors_is_refused(adapter):
    folder, base = adapter
    assert GritLM(folder, dtype="float32", device="cpu").reads == ("text", "image")
    path = folder / "towers.safetensors"
    (name, value), *_ = load_file(path).items()
    save_file({name: torch.zeros(2, *value.shape)}, path)
    assert f"have {name} of shape (2, " in refused(folder)
    save_file({"other": value}, path)
    assert "have other of shape" in refused(folder)
    path.write_bytes(b"damaged")
    assert f"{path} is damaged" in refused(folder)
    assert "do not share; load it alone" in refused(base, adapters={"mine": folder})
