"""Calibration of the adapted model: how it combines several passages, on questions set aside.

Training resets these settings, which belong to the weights.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from random import Random

from gritlm.adapt import report_tasks
from gritlm.adapt.run_folder import Row, RunFolder
from gritlm.errors import InputError
from gritlm.evaluation.rag.calibrate import calibrate
from gritlm.lm.gritlm import GritLM

log = logging.getLogger(__name__)

SETTINGS = "../gritlm.json"  # relative to the files of the steps
FEWEST = 20  # questions of a calibration
_MOST = 100
_SHARE = 0.1  # of the questions with an answer


def set_aside(rows: Sequence[Row], *, seed: int) -> tuple[list[Row], list[Row]]:
    """Return the rows to train on, and those of the calibration.

    A tenth of the factual questions with an answer and a hard negative is set aside, at most
    100; none of fewer than 200 such questions.

    Args:
        rows: questions of the training part, with their negatives.
        seed: seed of the choice.
    """
    usable = [n for n, row in enumerate(rows) if row["answer"] and row["negatives"]]
    count = min(_MOST, int(_SHARE * len(usable)))
    if count < FEWEST:
        return list(rows), []
    chosen = set(Random(seed).sample(usable, count))
    kept = [row for number, row in enumerate(rows) if number not in chosen]
    return kept, [rows[number] for number in sorted(chosen)]


def calibrate_adapter(folder: RunFolder, device: str | None) -> dict[str, int]:
    """Choose the fusion settings of the adapter, and write them into its ``gritlm.json``.

    Args:
        folder: folder of the run.
        device: device of the model; None for the best one.

    Returns:
        The number of questions; 0 for too few, or a model whose keys cannot be moved, which leaves
        the adapter without a calibration.
    """
    rows = folder.read(report_tasks.CALIBRATION)
    if len(rows) < FEWEST:
        return {"questions": 0}
    task: Path = folder.path(report_tasks.CALIBRATION).parent
    model = GritLM(folder.root, device=device)
    if model.lm.rope() is None:
        return {"questions": 0}
    try:
        found = calibrate(model, task)
    except InputError as error:  # too few questions fit the model's context
        log.warning("the adapter has no calibration: %s", error)
        return {"questions": 0}
    model.settings.but(fusion=found.settings).save(folder.root)
    return {
        "questions": found.questions,
        "right passages in percent": round(100 * found.right),
        "by cosine alone in percent": round(100 * found.right_by_cosine),
    }
