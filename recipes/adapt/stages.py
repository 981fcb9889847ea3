"""The worth of each stage of an adaptation: short runs without one, over the files of a whole run.

    python recipes/adapt/stages.py RUN OUT [--steps N] [--stage STAGE]...

RUN is the folder of a finished `gritlm adapt`. Its passages, questions and tasks are copied, so
that they are not made again, and its results of the model before. OUT gets a folder for a run with
all stages and for each run without one. A stopped command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gritlm.adapt import AdaptConfig, adapt
from gritlm.adapt.verdict import Difference

STEPS = 50
# Steps of the whole run that stay as they are. The others are run again.
BEFORE = ("passages", "questions", "chats", "tasks")
KEPT = {
    "all": (*BEFORE, "filter", "negatives", "rows"),
    "filter": BEFORE,
    "negatives": (*BEFORE, "filter"),
    "kl": (*BEFORE, "filter", "negatives", "rows"),
}
FOLDERS = ("tasks", "calibration", "results")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished adaptation")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the short runs")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help="training steps")
    parser.add_argument(
        "--stage", action="append", choices=KEPT, help="stage to leave out; all when left out"
    )
    chosen = parser.parse_args()
    state_file = chosen.run / "adapt" / "adapt.json"
    if not state_file.is_file():
        parser.error(f"{chosen.run} holds no run of gritlm adapt: {state_file} is missing")
    state = json.loads(state_file.read_text(encoding="utf-8"))
    if missing := [name for name in KEPT["all"] if name not in state["steps"]]:
        parser.error(f"{chosen.run} has not finished its step {missing[0]}; finish it first")
    found = {}
    for stage in chosen.stage or KEPT:
        folder = chosen.out / stage
        settings = {
            **state["settings"],
            "steps": chosen.steps,
            "without": [] if stage == "all" else [stage],
        }
        run = config(settings, folder)
        if not folder.exists():
            begun = {**state, "settings": run.fixed(), "steps": kept(state["steps"], stage)}
            copy(chosen.run, folder, begun)
        result = adapt(run, report=log)
        found[stage] = result.verdict.differences
    sys.stdout.write(table(found))


def log(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def config(settings: Mapping[str, Any], folder: Path) -> AdaptConfig:
    """Return settings that were read from JSON."""
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
    return AdaptConfig(**values, to=str(folder))


def kept(steps: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Return the finished steps that a run without a stage does not run again."""
    return {name: step for name, step in steps.items() if name in KEPT[stage]}


def copy(run: Path, folder: Path, state: Mapping[str, Any]) -> None:
    """Begin a run with the files of another one and a state of its own."""
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    to = unfinished / "adapt"
    to.mkdir(parents=True)
    for file in (run / "adapt").glob("*.jsonl"):
        shutil.copyfile(file, to / file.name)
    for name in FOLDERS:
        if (run / "adapt" / name).is_dir():
            shutil.copytree(run / "adapt" / name, to / name)
    (to / "adapt.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    unfinished.rename(folder)


def table(found: Mapping[str, tuple[Difference, ...]]) -> str:
    """Return the differences to the model before as a table in Markdown, a run in each column."""
    tasks = list(dict.fromkeys(each.task for many in found.values() for each in many))
    names = ["all stages" if stage == "all" else f"without {stage}" for stage in found]
    lines = [f"| task | before | {' | '.join(names)} |", f"|---|---:|{'---:|' * len(names)}"]
    for task in tasks:
        row = [next((each for each in many if each.task == task), None) for many in found.values()]
        before = next(each.before for each in row if each is not None)
        lines.append(f"| {task} | {before:.1f} | {' | '.join(map(cell, row))} |")
    return "\n".join(lines) + "\n"


def cell(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    estimate = difference.estimate
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:+.1f}"
    return f"{estimate.value:+.1f} ({estimate.low:+.1f} to {estimate.high:+.1f})"


if __name__ == "__main__":
    main()
