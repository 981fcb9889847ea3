"""Bulk embedding on Ray next to one process, on the same cores.

`python -m benchmarks.scale --passages 20000 --rounds 3` embeds the same passages by turns: by
GritLM.encode with all cores, and by gritlm.scale.embed with one worker a core. The time of Ray is
that of the whole job, and next to it that of its parts at the rate between the first and the last,
without the start of the processes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from gritlm import GritLM
from gritlm.lm import threads
from gritlm.scale import BulkOptions, PartOptions, WorkerPool, embed

WORDS = 60  # of a passage, on average
VOCABULARY = ["the", "of", "water", "light", "model", "city", "river", "answers", "paper", "never"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--model", default=None, help="default: the default model")
    parser.add_argument("--dtype", default="float32")
    wanted = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="scale"))
    try:
        texts = passages(wanted.passages)
        source = folder / "passages.jsonl"
        lines = (json.dumps({"id": f"p{n}", "text": text}) + "\n" for n, text in enumerate(texts))
        source.write_text("".join(lines), encoding="utf-8")
        measure(wanted, texts, source)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def passages(count: int) -> list[str]:
    """Return texts of 20 to 100 words, the same in every run."""
    draw = random.Random(0)
    return [
        " ".join(draw.choices(VOCABULARY, k=draw.randint(WORDS - 40, WORDS + 40)))
        for _ in range(count)
    ]


def measure(wanted: argparse.Namespace, texts: list[str], source: Path) -> None:
    """Print the time of each round, and the ratio of the medians."""
    import ray

    model = {"dtype": wanted.dtype, "device": "cpu"}
    if wanted.model is not None:
        model["model_name_or_path"] = wanted.model
    threads.keep(wanted.cores)
    alone: list[float] = []
    whole: list[float] = []
    steady: list[float] = []
    for number in range(wanted.rounds):
        alone.append(seconds_alone(model, texts))
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init(
            address="local",
            num_cpus=wanted.cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            namespace="gritlm",
        )
        took, between = seconds_on_ray(model, source, source.parent / f"out{number}", wanted.cores)
        ray.shutdown()
        whole.append(took)
        steady.append(between)
        print(
            f"round {number + 1}: one process {alone[-1]:.1f} s; on Ray {took:.1f} s, and "
            f"{between:.1f} s without the start",
            flush=True,
        )
    middle = statistics.median(alone)
    print(f"{len(texts)} passages, {wanted.cores} cores; medians of {wanted.rounds}")
    print(f"whole job: {middle / statistics.median(whole):.2f}x of GritLM.encode")
    print(f"without the start: {middle / statistics.median(steady):.2f}x")


def seconds_alone(model: dict[str, Any], texts: list[str]) -> float:
    """Return the time of GritLM.encode, without the loading of the model."""
    lm = GritLM(**model, mode="embedding")
    lm.encode(texts[:64], show_progress_bar=False)
    started = time.perf_counter()
    lm.encode(texts, show_progress_bar=False)
    return time.perf_counter() - started


def seconds_on_ray(
    model: dict[str, Any], source: Path, output: Path, cores: int
) -> tuple[float, float]:
    """Return the time of the whole job, and that of all parts at the rate after the first."""
    options = BulkOptions(
        model=model,
        parts=PartOptions(line_bytes=128 * 1024),
        workers=WorkerPool(cores, cores),
        progress=False,
    )
    started = time.perf_counter()
    report = embed(source, output, options)
    took = time.perf_counter() - started
    times = sorted(path.stat().st_mtime for path in output.glob("part-*.parquet"))
    between = (times[-1] - times[0]) * len(times) / max(1, len(times) - cores)
    if report.rejected or report.rows == 0:
        raise SystemExit(f"{report.rejected} rows were rejected")
    return took, between


if __name__ == "__main__":
    main()
