"""``gritlm eval --calibrate``: fusion settings of a model, chosen on questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from gritlm.cli import logs, terminal
from gritlm.errors import InputError

if TYPE_CHECKING:
    from gritlm.evaluation.rag.calibrate import Calibration
    from gritlm.evaluation.runner import RunnerOptions


def run(models: Sequence[str], task: Path, options: RunnerOptions, *, limit: int | None) -> None:
    """Calibrate one model, print the settings, and write them into its folder.

    Args:
        models: folder or name of one model.
        task: folder of a local RAG task.
        options: device, dtype and progress bar.
        limit: number of questions; None for all.

    Raises:
        InputError: for several models, or a task without enough questions.
    """
    if len(models) != 1:
        raise InputError(f"--calibrate got {len(models)} models; expected one")
    logs.hush_libraries()
    from gritlm import GritLM
    from gritlm.evaluation.rag.calibrate import calibrate

    (name,) = models
    model = GritLM(
        name, device=options.device, dtype=options.dtype, quantization=options.quantization
    )
    found = calibrate(model, task, limit=limit, progress=options.progress)
    terminal.write(json.dumps({"fusion": asdict(found.settings)}, indent=2) + "\n")
    logs.note(_figures(found))
    folder = Path(name)
    if folder.is_dir() and name in (model.source, model.adapter):
        model.settings.but(fusion=found.settings).save(folder)
        logs.note(f"written into {folder / 'gritlm.json'}")


def _figures(found: Calibration) -> str:
    return (
        f"right passage chosen for {100 * found.right:.1f}% of {found.questions} questions "
        f"({100 * found.right_by_cosine:.1f}% by cosine alone), reading "
        f"{found.passages:.1f} passages a question; {100 * found.absent_found:.0f}% of questions "
        "without their right passage recognised"
    )
