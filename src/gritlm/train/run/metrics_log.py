"""Metrics of a run: ``metrics.jsonl``, progress bar, trackers and the plot of the losses."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gritlm import jsonl
from gritlm.distribution import install_hint
from gritlm.errors import InputError, MissingExtraError
from gritlm.train.run import parallel

FILE = "metrics.jsonl"
PLOT = "loss.png"


class MetricsLog:
    """Log of the metrics of each step: ``metrics.jsonl``, a progress bar and trackers.

    Only the main process writes. Each line has the step, both losses and their parts, the norm of
    the gradient before clipping, the learning rate, tokens per second (each token counted once,
    over all processes) and the seconds of the step.
    """

    def __init__(
        self,
        folder: Path,
        *,
        steps: int,
        done: int = 0,
        every: int = 1,
        trackers: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        bar: bool | None = None,
    ) -> None:
        """Open the log in a folder; keep the lines of the steps that are done.

        Args:
            folder: existing folder of the run.
            steps: total number of steps, for the progress bar.
            done: steps of an earlier part of this run; lines of later steps are dropped.
            every: number of steps between two lines.
            trackers: names of trackers: ``tensorboard``, ``wandb``.
            settings: settings of the run, for the trackers.
            bar: whether to show a progress bar; None: on a terminal only.

        Raises:
            MissingExtraError: a tracker or matplotlib is not installed.
        """
        if find_spec("matplotlib") is None:
            raise MissingExtraError(f"the plot of a run needs matplotlib: {install_hint('train')}")
        self._main = parallel.is_main()
        self._every = every
        self._path = folder / FILE
        hidden = not sys.stderr.isatty() if bar is None else not bar
        self._bar = tqdm(
            total=steps, initial=done, unit="step", disable=hidden or not self._main, leave=False
        )
        self._trackers = [_tracker(name, folder, settings or {}) for name in trackers if self._main]
        self._start = time.perf_counter()
        if self._main:
            kept = [line for line in read(folder) if line["step"] <= done]
            self._path.write_text("".join(_line(entry) for entry in kept), encoding="utf-8")

    @property
    def has_bar(self) -> bool:
        return not self._bar.disable

    def step(self, number: int, values: Mapping[str, float], *, tokens: int) -> None:
        """Write the metrics of a finished step.

        Args:
            number: the step, from 1.
            values: metrics by name.
            tokens: tokens of the step over all processes.
        """
        now = time.perf_counter()
        seconds = now - self._start
        self._start = now
        speed = {"tokens_per_second": tokens / max(seconds, 1e-9), "seconds": seconds}
        self._bar.set_postfix(_short({**values, **speed}), refresh=False)
        self._bar.update()
        if self._main and number % self._every == 0:
            self._write({"step": number, **values, **speed})

    def evaluation(self, number: int, values: Mapping[str, float]) -> None:
        """Write the metrics of an evaluation after a step, as ``eval/NAME``."""
        self._start = time.perf_counter()
        if self._main:
            self._write({"step": number, **{f"eval/{k}": v for k, v in values.items()}})

    def skipped(self, done: int, rows: int) -> None:
        """Write the number of skipped rows, once a start, at step 0 or that of the checkpoint."""
        if self._main:
            self._write({"step": done, "skipped_rows": rows})

    def close(self) -> None:
        self._bar.close()
        for tracker in self._trackers:
            tracker.finish()

    def _write(self, entry: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))
        for tracker in self._trackers:
            tracker.log({k: v for k, v in entry.items() if k != "step"}, step=entry["step"])


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl`` up to the first truncated or damaged one."""
    path = folder / FILE
    found: list[dict[str, Any]] = []
    if not path.is_file():
        return found
    with path.open("rb") as file:
        for line in jsonl.lines(file):
            try:
                entry = jsonl.record(line.data)
            except InputError:
                break
            if type(entry.get("step")) is not int:
                break
            found.append(entry)
    return found


def plot(folder: Path) -> Path:
    """Plot the losses over the steps to ``loss.png`` in the folder of a run; return its path."""
    from matplotlib.figure import Figure

    entries = read(folder)
    names = sorted({name for entry in entries for name in entry if name.startswith("loss")})
    measured = sorted({n for entry in entries for n in entry if n.startswith("eval/loss")})
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name in names:
        points = [(entry["step"], entry[name]) for entry in entries if name in entry]
        (drawn,) = axes.plot(*zip(*points, strict=True), alpha=0.3, linewidth=1)
        axes.plot(*_smooth(points), color=drawn.get_color(), label=name)
    for name in measured:
        points = [(entry["step"], entry[name]) for entry in entries if name in entry]
        axes.plot(*zip(*points, strict=True), "o--", label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title(folder.resolve().name)
    if names:
        axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(folder / PLOT, dpi=120)
    return folder / PLOT


def _smooth(
    points: Sequence[tuple[int, float]], kept: float = 0.9
) -> tuple[list[int], list[float]]:
    """Return steps and the bias-corrected exponential moving average of the values."""
    steps = []
    values = []
    mean = 0.0
    for number, (step, value) in enumerate(points, start=1):
        mean = kept * mean + (1 - kept) * value
        steps.append(step)
        values.append(mean / (1 - kept**number))
    return steps, values


def _short(values: Mapping[str, float]) -> dict[str, str]:
    shown = {
        "emb": "loss_emb",
        "gen": "loss_gen",
        "norm": "grad_norm",
        "tok/s": "tokens_per_second",
    }
    return {short: f"{values[name]:.4g}" for short, name in shown.items() if name in values}


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def _tracker(name: str, folder: Path, settings: Mapping[str, Any]) -> Any:
    """Return a tracker of accelerate."""
    from accelerate import tracking

    kinds = {
        "tensorboard": (
            tracking.is_tensorboard_available,
            lambda: tracking.TensorBoardTracker(run_name="trackers", logging_dir=str(folder)),
        ),
        "wandb": (tracking.is_wandb_available, lambda: tracking.WandBTracker(folder.name)),
    }
    there, make = kinds[name]
    if not there():
        raise MissingExtraError(f"report_to {name!r} needs a library: pip install {name}")
    tracker = make()
    if hasattr(tracker, "start"):
        tracker.start()
    plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in settings.items()}
    tracker.store_init_configuration(plain)
    return tracker
