"""Part ``graphs``: one-token steps as a CUDA graph (``compile=True``), their text and speed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import torch

from benchmarks.gpu_parts.lm_checks import TEXTS
from benchmarks.gpu_parts.machine import Machine, folder_of, release, wide_folder
from benchmarks.gpu_parts.reporting import Report, SkippedError, require
from gritlm import GritLM
from gritlm.lm.generator import complete
from gritlm.lm.sampling import SamplingParams


def run(machine: Machine, report: Report) -> None:
    same = report.attempt("the same text with and without graphs", partial(same_text, machine))
    if same:
        report.attempt("speed of steps", partial(speed, machine, report))
    release()


def require_compiler(machine: Machine) -> None:
    """Skip where a requirement of torch.compile is missing.

    Raises:
        SkippedError: with the name of the missing program or library.
    """
    if not any(map(shutil.which, ("g++", "gcc", "clang", "cc"))):
        raise SkippedError("torch.compile needs a C++ compiler")
    if not machine.rehearse and not torch.utils._triton.has_triton():
        raise SkippedError("torch.compile needs triton")


def same_text(machine: Machine) -> str:
    require_compiler(machine)
    with compiling(machine):
        return _same_text(machine)


def _same_text(machine: Machine) -> str:
    folder = wide_folder(machine)
    plain = GritLM(folder, dtype="float32", device=machine.device)
    compiled = GritLM(folder, dtype="float32", device=machine.device, compile=True)
    _, blocks = plain.encode(TEXTS[:2], get_cache=True)
    cases = {"no block": None, "one block": blocks[0], "two blocks": blocks}
    for turn in range(2):  # the second time a graph of another cache is there
        for name, kv in cases.items():
            texts = {m.chat("What sleeps?", kv=kv, max_new_tokens=24) for m in (plain, compiled)}
            require(len(texts) == 1, f"{name}, turn {turn}: {texts}")
    return f"{len(cases)} prompts, twice"


@contextmanager
def compiling(machine: Machine) -> Iterator[None]:
    """Trace only, without generated code, in a rehearsal."""
    compile_whole = torch.compile
    traced = partial(compile_whole, backend="eager")
    if not machine.rehearse:
        yield
        return
    with patch.object(torch, "compile", lambda function, **_: traced(function)):
        yield


def speed(machine: Machine, report: Report) -> None:
    """Measure ours with and without graphs, and ``generate`` of transformers, one sequence."""
    with compiling(machine):
        _speed(machine, report)


def _speed(machine: Machine, report: Report) -> None:
    layers = machine.pick(4, 1)
    folder = folder_of(machine, layers)
    new = machine.pick(128, 8)
    ids = list(range(10, 10 + machine.pick(128, 16)))
    rates = {}
    for name, options in {"steps": {}, "steps as a graph": {"compile": True}}.items():
        model = GritLM(
            folder, dtype=str(machine.dtype).split(".")[1], device=machine.device, **options
        )
        taken = machine.seconds_of(
            partial(_write, model, ids, new), repeats=machine.pick(5, 1), warmups=2
        )
        rates[name] = new / taken
        report.figure(f"{layers} layers, {name}", new / taken, "tokens/s")
    given = torch.tensor([ids], device=machine.device)
    theirs = partial(
        model.model.generate,
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
    )
    rate = new / machine.seconds_of(theirs, repeats=machine.pick(5, 1))
    for name, ours in rates.items():
        report.figure(f"{layers} layers, {name} / transformers generate()", ours / rate, "x")


def _write(model: GritLM, ids: list[int], new: int) -> list[int]:
    sampler = SamplingParams().sampler()
    return list(complete(model.lm, ids, sampler=sampler, max_new_tokens=new))
