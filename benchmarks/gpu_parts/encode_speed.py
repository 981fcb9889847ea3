"""Part ``encode``: tokens a second and share of the device's peak, against other encoders."""

from __future__ import annotations

import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import mixed_texts
from benchmarks.encode import HEADER, sentence_transformer, unsorted
from benchmarks.gpu_parts.machine import (
    Machine,
    body_parameters,
    default_model,
    folder_of,
    release,
    utilisation,
)
from benchmarks.gpu_parts.reporting import Report, SkippedError, require
from gritlm import GritLM

MOST = 512  # tokens of a text


def run(machine: Machine, report: Report) -> None:
    for layers in machine.pick((4, 16), (1,)):
        report.attempt(f"{layers} layers", partial(shape, machine, report, layers))
        release()
    report.attempt("default model", partial(default, machine, report))
    release()


def shape(machine: Machine, report: Report, layers: int) -> None:
    machine.require_time(40)
    dtype = str(machine.dtype).split(".")[1]
    model = GritLM(folder_of(machine, layers), dtype=dtype, device=machine.device)
    measure(machine, report, model, f"{layers} layers")


def default(machine: Machine, report: Report) -> None:
    machine.require_time(30)
    measure(machine, report, default_model(machine), "default model")


def measure(machine: Machine, report: Report, model: GritLM, name: str) -> None:
    """Measure ours, a plain loop in padded batches, and sentence-transformers where it is."""
    texts = mixed_texts(machine.pick(768, 4))
    repeats = machine.pick(3, 1)
    ids = model.tokenizer([HEADER + text for text in texts])["input_ids"]
    tokens = sum(min(len(each), MOST) for each in ids)
    ours = partial(model.encode, texts, instruction=HEADER, show_progress_bar=False)
    rate = tokens / machine.seconds_of(ours, repeats=repeats)
    used = utilisation(machine, 2 * body_parameters(model) * rate)
    report.figure(f"{name}, gritlm", rate, "tokens/s", f"{tokens} tokens; {used}")
    plain = partial(unsorted, model, texts)
    loop = tokens / machine.seconds_of(plain, repeats=repeats)
    report.figure(f"{name}, gritlm / unsorted padded batches", rate / loop, "x")
    for attention in ("sdpa", "flash_attention_2"):
        report.attempt(
            f"{name}, sentence-transformers, {attention}",
            partial(against, machine, report, model, texts, (name, attention, tokens / rate)),
        )


def against(
    machine: Machine,
    report: Report,
    model: GritLM,
    texts: list[str],
    side: tuple[str, str, float],
) -> str:
    """Measure sentence-transformers over the same weights.

    Args:
        side: name of the model, attention of the peer, and our seconds.
    """
    name, attention, ours = side
    if find_spec("sentence_transformers") is None:
        raise SkippedError("sentence-transformers is not installed")
    if attention == "flash_attention_2" and find_spec("flash_attn") is None:
        raise SkippedError("flash-attn is not installed")
    place = machine.folder / f"peer-{attention}"
    shutil.rmtree(place, ignore_errors=True)
    peer: Any = sentence_transformer(folder(model), place, model.dtype, attention=attention)
    encode = partial(peer.encode, texts, prompt=HEADER, show_progress_bar=False)
    taken = machine.seconds_of(encode, repeats=machine.pick(3, 1))
    report.figure(f"{name}, gritlm / sentence-transformers, {attention}", taken / ours, "x")
    few = texts[:4]
    theirs = peer.encode(few, prompt=HEADER, show_progress_bar=False)
    own = model.encode(few, instruction=HEADER, show_progress_bar=False)
    least = float(np.sum(own * theirs, axis=1).min())
    shutil.rmtree(place, ignore_errors=True)
    return require(least > 0.99, f"least cosine of both sides' vectors {least:.4f}")


def folder(model: GritLM) -> Path:
    """Return the folder of a model for the peer.

    Raises:
        SkippedError: for a model that is no plain folder.
    """
    if not Path(model.source).is_dir() or model.adapter is not None:
        raise SkippedError("the peer loads plain folders, this model has an adapter")
    return Path(model.source)
