"""The command that measures the table of speeds next to other libraries.

    python -m benchmarks.speed [--only ROW ...] [--threads N] [--clock wall|cpu] [--quick]
                               [--to docs]

Each side has a process of its own; one works at a time, the others are blocked. The figures of a
row replace those of an earlier run in ``benchmarks.json``, so a run that was interrupted goes on
with ``--only``. Peers that are not installed, and sides that fail, are named in the table; the exit
code is 1 if a side failed. CPU time (``--clock cpu``) is for a machine with other work, and for one
thread: threads that wait for each other take CPU time too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks.common import machine
from benchmarks.speed import encoding, generation, llamacpp, page, serving
from benchmarks.speed.measure import CLOCKS, Row, Setting

Measure = Callable[[Setting, Path], Row]

ROWS: dict[str, Measure] = {
    "decode-bf16": generation.decode_bfloat16,
    "decode-int8": partial(generation.decode_quantized, ours_in="int8", theirs_in="q8_0"),
    "decode-int4": partial(generation.decode_quantized, ours_in="int4", theirs_in="q4_0"),
    "lookup": generation.lookup,
    "prefill-512": partial(generation.prefill_row, tokens=512),
    "prefill-2048": partial(generation.prefill_row, tokens=2048),
    "chats-8": serving.chats,
    "encode": encoding.mixed,
    "http-embed": serving.embeddings,
    "shares": encoding.shares,
}


def main() -> int:
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    setting = Setting(chosen.model, chosen.threads, chosen.quick)
    path = chosen.to / page.FIGURES.name
    figures = earlier(path) if chosen.only else {}
    figures |= {
        "machine": machine(),
        "date": date.today().isoformat(),
        "clock": chosen.clock,
        "threads": chosen.threads,
        "quick": chosen.quick,
        "apart": True,
        "llama.cpp": llamacpp.facts(),
    }
    figures["rows"] = figures.pop("rows", {})
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.only or ROWS:
            began = perf_counter()
            row = ROWS[name](setting, Path(folder))
            failed = failed or row.failed
            figures["rows"][name] = row.as_json()
            figures["rows"] = {
                each: figures["rows"][each] for each in ROWS if each in figures["rows"]
            }
            page.write(figures, chosen.to)
            print(f"{name}: {perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    print(f"{figures['machine']}, {chosen.clock} time\n\n{page.ratios(figures)}")
    return int(failed)


def earlier(path: Path) -> dict[str, Any]:
    """Return the figures of an earlier run; empty without one."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=[], metavar="ROW")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--quick", action="store_true", help="few repetitions, small sizes")
    parser.add_argument("--model", default=None, help="checkpoint folder; default: default model")
    parser.add_argument("--to", type=Path, default=page.DOCS, help="folder of page and figures")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
