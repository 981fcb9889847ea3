"""Shared code of the benchmarks: texts of mixed length, alternating timing, memory, a table."""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

CORPUS = Path(__file__).parents[1] / "examples" / "corpus" / "passages.jsonl"
# Passages joined to one text: most texts are short, some are long, as in real collections.
JOINED = (1, 1, 1, 2, 1, 1, 3, 1)
# Dense bfloat16, from the data sheets; the first name that is part of the device's counts.
PEAK_TFLOPS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200": 989,
    "GH200": 989,
    "B200": 2250,
    "A100": 312,
    "A10G": 70,
    "A10": 125,
    "A40": 150,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 4090": 165,
    "RTX 3090": 71,
    "RTX A6000": 155,
}
SAMPLED_S = 0.005  # between two looks at the memory of the process


def passages_with_titles() -> list[dict[str, str]]:
    """The rows of the example collection: ``title`` and ``text`` among other things."""
    return [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]


def mixed_texts(count: int) -> list[str]:
    """Real texts of mixed length: titles, passages, and passages joined, in no order of length."""
    passages = passages_with_titles()
    texts = []
    at = 0
    for number in range(count):
        if number % 3 == 0:
            texts.append(passages[number % len(passages)]["title"])
            continue
        size = JOINED[number % len(JOINED)]
        chosen = [passages[(at + i) % len(passages)]["text"] for i in range(size)]
        texts.append(" ".join(chosen))
        at += size
    return texts


def prompt_ids(tokenizer: Any, tokens: int) -> list[int]:
    """Return the first token ids of natural text.

    Raises:
        RuntimeError: if the example texts have fewer tokens.
    """
    text = " ".join(mixed_texts(120))
    ids: list[int] = tokenizer(text, verbose=False)["input_ids"][:tokens]
    if len(ids) < tokens:
        raise RuntimeError(f"the example texts have {len(ids)} tokens, {tokens} are needed")
    return ids


def part_of(values: Iterable[float], part: float) -> float:
    """The value below which such a part of all values lies; NaN for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def alternate(
    sides: dict[str, Callable[[], object]], *, repeats: int, warmups: int = 1
) -> dict[str, list[float]]:
    """Seconds of every side, the sides taking turns so that noise of the machine hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warmups + repeats):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            _finished()
            if turn >= warmups:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_memory(run: Callable[[], object]) -> int:
    """Most bytes taken while ``run`` runs, beyond those taken before it.

    On a GPU what its allocator counts; else what the process has in memory, looked at every few
    milliseconds, after what earlier work left unused has been given back.
    """
    gc.collect()
    if torch.cuda.is_available():
        _finished()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        _finished()
        return torch.cuda.max_memory_allocated() - before
    import psutil

    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    process = psutil.Process()
    ended = threading.Event()
    before = process.memory_info().rss
    seen = [before]

    def look() -> None:
        while not ended.wait(SAMPLED_S):
            seen.append(max(seen.pop(), process.memory_info().rss))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        run()
    finally:
        ended.set()
        watcher.join()
    return seen[0] - before


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def speeds(seconds: dict[str, list[float]], amount: dict[str, float], ours: str) -> str:
    """Table of the amount a second (median), its spread, and how many times faster ``ours`` is."""
    rate = {name: amount[name] / statistics.median(taken) for name, taken in seconds.items()}
    rows = []
    for name, taken in seconds.items():
        spread = f"{amount[name] / max(taken):.1f}-{amount[name] / min(taken):.1f}"
        rows.append([name, f"{rate[name]:.1f}", spread, f"{rate[ours] / rate[name]:.2f}x"])
    return table(["side", "a second (median)", "range", f"{ours} is faster by"], rows)


def peak_tflops() -> float | None:
    """Dense bfloat16 TFLOP/s of the GPU by its data sheet; None for an unknown one or none."""
    if not torch.cuda.is_available():
        return None
    device = torch.cuda.get_device_name()
    return next((float(peak) for name, peak in PEAK_TFLOPS.items() if name in device), None)


def machine() -> str:
    """Hardware and versions, in one line."""
    kind = platform.machine()
    for line in _cpuinfo():
        if line.startswith("model name"):
            kind = line.split(":", 1)[1].strip()
            break
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else kind
    return (
        f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


def _finished() -> None:
    """A GPU works on after a call has returned."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
