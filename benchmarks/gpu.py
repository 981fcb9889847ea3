"""Correctness and speed of everything that only a GPU runs, in one report.

    python -m benchmarks.gpu [--minutes 8] [--only encode decode] [--out gpu] [--rehearse]

Every part runs in a process of its own: a failure, even of the device, is a row of the report, and
the other parts run. The models are made here, with random weights of Mistral-7B's shape; the
default model takes part if it is in the cache. Without a GPU the parts are rehearsed on the CPU
with tiny shapes. It writes gpu.json, and gpu.md with the tables for the log. The exit code is 1 if
a check or a part failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.common import machine as machine_line
from benchmarks.common import table
from benchmarks.gpu_parts.machine import Machine
from benchmarks.gpu_parts.reporting import Report, Row, last_lines

# Parts with their modules, and the weight of each in the time budget.
PARTS = {
    "correctness": ("benchmarks.gpu_parts.lm_checks", 1.0),
    "graphs": ("benchmarks.gpu_parts.graph_steps", 1.5),
    "training": ("benchmarks.gpu_parts.training_checks", 1.5),
    "encode": ("benchmarks.gpu_parts.encode_speed", 2.0),
    "decode": ("benchmarks.gpu_parts.decode_speed", 2.0),
    "ttft": ("benchmarks.gpu_parts.first_token", 1.5),
    "training-speed": ("benchmarks.gpu_parts.training_speed", 1.5),
}
LOADED = ["torch", "transformers", "benchmarks.gpu_parts.machine", "gritlm.train.trainer"]


def main(words: Sequence[str] | None = None) -> int:
    """Run the chosen parts, write the report, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--minutes", type=float, default=8.0, help="time of all parts together")
    add("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    add("--out", type=Path, default=Path("gpu"), help="report, without the ending of its name")
    add("--rehearse", action="store_true", help="tiny shapes on the CPU; without a GPU always")
    chosen = parser.parse_args(words)
    rehearse = chosen.rehearse or not torch.cuda.is_available()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    begin = time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        deadline = begin + 60 * chosen.minutes
        for number, name in enumerate(chosen.only):
            share = PARTS[name][1] / sum(PARTS[each][1] for each in chosen.only[number:])
            seconds = max(1.0, (deadline - time.monotonic()) * share)
            rows += run_part(name, PARTS[name][0], Machine(Path(folder), rehearse, seconds))
    head = {
        "machine": machine_line(),
        "python": sys.version.split()[0],
        "cuda": torch.version.cuda,
        "rehearsal": rehearse,
        "started": started,
        "seconds": round(time.monotonic() - begin, 1),
        "command": "python -m benchmarks.gpu " + " ".join(sys.argv[1:] if words is None else words),
    }
    text = markdown(head, rows)
    report = {**head, "rows": [row.as_json() for row in rows]}
    chosen.out.with_suffix(".json").write_text(
        json.dumps(report, indent=2) + "\n", encoding="utf-8"
    )
    chosen.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return int(any(row.kind == "failed" for row in rows))


def run_part(name: str, module: str, machine: Machine) -> list[Row]:
    """Run a part in a new process, and return its rows, also those before an early end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_in_process, args=(name, module, machine, theirs))
    rows: list[Row] = []
    begin = time.monotonic()
    process.start()
    theirs.close()
    ended = False
    while not ended and (left := machine.seconds - (time.monotonic() - begin)) > 0:
        if not ours.poll(min(left, 1.0)):
            continue
        try:
            rows.append(ours.recv())
            print(f"{rows[-1].kind:8} {name}: {rows[-1].name}", file=sys.stderr, flush=True)
        except EOFError:
            ended = True
    taken = time.monotonic() - begin
    if not ended:
        process.kill()
        note = (
            f"stopped after its {machine.seconds:.0f} s; give more --minutes, or name it in --only"
        )
        rows.append(Row(name, "failed", "the whole part", note=note, seconds=taken))
    process.join()
    if ended and process.exitcode:
        note = f"its process ended with exit code {process.exitcode}"
        rows.append(Row(name, "failed", "the whole part", note=note, seconds=taken))
    return rows


def _in_process(name: str, module: str, machine: Machine, pipe: Connection) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    machine = Machine(machine.folder, machine.rehearse, machine.seconds)  # its clock begins here
    report = Report(name, pipe.send)
    try:
        importlib.import_module(module).run(machine, report)
    except BaseException:
        text = last_lines(traceback.format_exc())
        pipe.send(Row(name, "failed", "the whole part", note=text))
    pipe.close()


def markdown(head: dict[str, object], rows: Sequence[Row]) -> str:
    """Return the report as Markdown: figures, checks, and tracebacks."""
    kind = "Rehearsal on a CPU: no figure means anything. " if head["rehearsal"] else ""
    lines = [
        f"{kind}{head['machine']}, {head['started']}, {head['seconds']} s. `{head['command']}`",
        "",
    ]
    figures = [
        [row.part, row.name, f"{row.value:.4g} {row.unit}", row.note]
        for row in rows
        if row.kind == "figure"
    ]
    lines += [table(["part", "measured", "", ""], figures), ""] if figures else []
    checks = [
        [row.part, row.name, row.kind.replace("check", "holds"), _brief(row.note)]
        for row in rows
        if row.kind != "figure"
    ]
    lines += [table(["part", "check", "", ""], checks), ""] if checks else []
    for row in rows:
        if row.kind == "failed":
            lines += [f"{row.part}: {row.name}", "```", row.note, "```", ""]
    return "\n".join(lines)


def _brief(note: str) -> str:
    """Return the last line of a note, without the signs of a table."""
    return note.strip().splitlines()[-1].replace("|", "/") if note.strip() else ""


if __name__ == "__main__":
    raise SystemExit(main())
