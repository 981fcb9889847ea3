"""Convert the adapter of a finished training run to the one in the package.

    python recipes/default/pack.py RUN_FOLDER [RUN_FOLDER ...] [--output FOLDER]

RUN_FOLDER is the output folder of `gritlm train` with model.lora = true on the base of the default
model, or a checkpoint in it; several are averaged. The weights are rounded to bfloat16, the
configuration names the base by its hub id, and the weights file has the fingerprint of the base, so
that loading refuses another base. The model card in the folder (README.md) is written by hand and
not changed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from gritlm.errors import GritLMError, InputError
from gritlm.lm.hub import default_model, lora, merge
from gritlm.lm.hub.model_config import FILE, ModelSettings, read_settings
from gritlm.lm.hub.quiet import quiet
from gritlm.lm.hub.weight_sources import HUB

MOST_BYTES = 24_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_FOLDER", help="with its adapter")
    parser.add_argument(
        "--output", type=Path, default=default_model.ADAPTER, help="default: the package"
    )
    chosen = parser.parse_args()
    try:
        size = pack(chosen.runs[0], chosen.output, *chosen.runs[1:])
    except (GritLMError, OSError, SafetensorError) as error:
        sys.exit(f"pack.py: error: {error}")
    sys.stdout.write(f"{chosen.output}: {size:,} bytes of weights\n")


def pack(run: Path, output: Path, *others: Path) -> int:
    """Write the adapter of a run to a folder; return the size of its weights file in bytes.

    Args:
        run: output folder of the run, or a checkpoint.
        output: folder to write to.
        others: more runs with the same settings; the weights of all runs are averaged.

    Raises:
        InputError: a run has no adapter, has another base, was not trained to embed, or has
            non-finite or too large weights.
        ModelError: a file is damaged, or the adapter does not fit the base.
    """
    about = _about(run)
    settings = _settings(run)
    for other in others:
        if (_about(other), _settings(other)) != (about, settings):
            raise InputError(f"{other}: trained with other settings than {run}; expected the same")
    mean = _mean([_loaded(each) for each in (run, *others)])
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in mean.items()}
    with quiet():
        base = AutoModelForCausalLM.from_pretrained(default_model.ensure(), dtype=torch.bfloat16)
    metadata = {"format": "pt", lora.FINGERPRINT: lora.fingerprint(base)}
    output.mkdir(parents=True, exist_ok=True)
    staging = output / f".packing-{os.getpid()}"
    staging.mkdir()
    try:
        save_file(tensors, staging / lora.WEIGHTS_FILE, metadata=metadata)
        text = json.dumps(about, indent=2, sort_keys=True) + "\n"
        (staging / lora.CONFIG_FILE).write_text(text, encoding="utf-8")
        settings.save(staging)
        size = _size(staging / lora.WEIGHTS_FILE)
        lora.fit(base, str(staging))
        merge.merge_adapter(base, str(staging))  # fails if the adapter cannot be loaded
        for path in sorted(staging.iterdir()):
            path.chmod(0o644)  # safetensors gives read access to the owner only
            path.replace(output / path.name)
    finally:
        shutil.rmtree(staging)
    return size


def mean_adapter(runs: Sequence[Path], output: Path) -> Path:
    """Write the mean of the adapters of some runs or checkpoints to a folder; return the folder.

    Raises:
        InputError: there are no runs, or they have different settings.
    """
    if not runs:
        raise InputError(f"no run whose adapter could be written to {output}; train first")
    first = runs[0]
    for other in runs[1:]:
        if read_settings(other) != read_settings(first):
            raise InputError(f"{other}: trained with other settings than {first}")
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(first.iterdir()):
        if path.is_file() and path.name != lora.WEIGHTS_FILE:
            shutil.copyfile(path, output / path.name)
    save_file(
        _mean([_loaded(run) for run in runs]), output / lora.WEIGHTS_FILE, metadata={"format": "pt"}
    )
    return output


def _mean(all_tensors: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of tensors by name, computed in float32."""
    return {
        name: torch.stack([each[name].float() for each in all_tensors]).mean(dim=0)
        for name in all_tensors[0]
    }


def _about(run: Path) -> dict[str, Any]:
    """Return the adapter configuration, with the hub id as name of the base."""
    if not (run / lora.WEIGHTS_FILE).is_file() or not lora.is_adapter_folder(str(run)):
        raise InputError(
            f"{run}: no {lora.CONFIG_FILE} and {lora.WEIGHTS_FILE}; expected the output folder of "
            "a finished run with model.lora = true"
        )
    base = lora.base_named(str(run))
    if base is None or not default_model.is_base(base):
        raise InputError(f"{run}: its base is {base}; expected that of the default model, {HUB}")
    about: dict[str, Any] = json.loads((run / lora.CONFIG_FILE).read_text(encoding="utf-8"))
    targets = about["target_modules"]  # PEFT writes a set, in random order
    names = sorted(targets) if isinstance(targets, list) else targets
    return about | {
        "base_model_name_or_path": HUB,
        "inference_mode": True,
        "target_modules": names,
    }


def _settings(run: Path) -> ModelSettings:
    settings = read_settings(run)
    if not (run / FILE).is_file() or not settings.trained_to_embed:
        raise InputError(f"{run / FILE}: expected settings with trained_to_embed true")
    if settings.template == "auto":
        raise InputError(f"{run / FILE}: template is 'auto'; expected the one that was trained")
    return settings


def _loaded(run: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(run / lora.WEIGHTS_FILE)
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise InputError(f"{run / lora.WEIGHTS_FILE}: {name} holds NaN or infinite numbers")
    return tensors


def _size(path: Path) -> int:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise InputError(
            f"the weights would take {size:,} bytes, at most {MOST_BYTES:,} are shipped; train "
            "with a smaller model.lora_r"
        )
    return size


if __name__ == "__main__":
    main()
