"""A part of the GPU benchmark that ends as its name says; see test_gpu.py."""

from __future__ import annotations

import os
import time

from benchmarks.gpu_parts.machine import Machine
from benchmarks.gpu_parts.reporting import Report, SkippedError


def run(machine: Machine, report: Report) -> None:
    report.figure("before the end", 1.0, "x")
    if report.part == "hangs":
        time.sleep(60)
    if report.part == "dies":
        os._exit(3)
    if report.part == "raises":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    report.attempt("does not hold", lambda: 1 / 0)
    report.attempt("is not here", _skipped)
    report.attempt("holds", lambda: "as it should")


def _skipped() -> str:
    raise SkippedError("flash-attn is not installed")
