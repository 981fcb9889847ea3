"""Trial of an adaptation on a few passages: examples of every step, and an estimate of the time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from gritlm.adapt import collection
from gritlm.adapt.adapter_training import ModelFacts, count_steps, step_seconds, training_config
from gritlm.adapt.collection import HELD_OUT, TRAIN, of_split
from gritlm.adapt.config import AdaptConfig
from gritlm.adapt.pipeline import Adaptation, require_libraries_of
from gritlm.adapt.rows import hard_negatives, questions, round_trip, training_rows
from gritlm.adapt.run_folder import Row, RunFolder

log = logging.getLogger(__name__)

EXAMPLES = 10  # rows of each step
_TRAINED = 16  # passages of the training part that are tried
_HELD_OUT = 4
_FILES = {
    "passages": collection.FILE,
    "questions": questions.FILE,
    "filter": round_trip.FILE,
    "negatives": hard_negatives.FILE,
    "pairs": training_rows.PAIRS,
    "answers": training_rows.ANSWERS,
    "chats": training_rows.CHATS,
}


@dataclass(frozen=True)
class DryRun:
    """Result of a trial.

    Attributes:
        passages: counts of all passages of the collection.
        counts: counts of each step on the tried passages.
        examples: up to ten rows of each step.
        seconds: estimated seconds of each step on the whole collection on this machine. The report
            is not among them: its general tasks have their own size.
        steps: training steps of the whole run.
    """

    passages: Mapping[str, int]
    counts: Mapping[str, Mapping[str, int]]
    examples: Mapping[str, list[Row]]
    seconds: Mapping[str, float]
    steps: int

    @property
    def total(self) -> float:
        """Estimated seconds of all steps but the report."""
        return sum(self.seconds.values())


def try_out(
    config: AdaptConfig,
    *,
    report: Callable[[str], None] = log.info,
    progress: bool | None = None,
) -> DryRun:
    """Try an adaptation on a few passages in a temporary folder; nothing else is written.

    Args:
        config: settings of the run.
        report: callback for lines of the log.
        progress: show progress bars; None: on a terminal.

    Raises:
        InputError: as :func:`gritlm.adapt.adapt` does, except for the folder of the run.
        MissingExtraError: if a library is not installed.
    """
    require_libraries_of(config)
    with TemporaryDirectory(prefix="gritlm-adapt-") as temporary:
        folder = RunFolder(Path(temporary) / "run")
        run = Adaptation(replace(config, to=str(folder.root)), folder, report, progress)
        run.begin()
        folder.close()
        passages = folder.steps()["passages"].counts
        every = run.passages
        trained = of_split(every, TRAIN)
        tried = [*trained[:_TRAINED], *of_split(every, HELD_OUT)[:_HELD_OUT]]
        folder.write(collection.FILE, [passage.row for passage in tried])
        run.forget_passages()
        run.make_rows()
        return _result(run, passages, share=len(every) / len(tried))


def _result(run: Adaptation, passages: Mapping[str, int], *, share: float) -> DryRun:
    folder = run.folder
    steps = folder.steps()
    seconds = {
        name: step.seconds * (1 if name in ("passages", "chats", "tasks") else share)
        for name, step in steps.items()
    }
    facts = ModelFacts.of(run.model)
    run.model.free()
    training = training_config(run.config, folder, facts)
    step = step_seconds(training)
    pairs = round(share * len(folder.read(training_rows.PAIRS)))
    full = replace(
        training,
        training=replace(
            training.training, per_device_train_batch_size=min(run.config.batch_size, pairs)
        ),
    )
    count = run.config.steps or count_steps(run.config, full, pairs, step)
    seconds["training"] = count * step
    examples = {
        name: folder.read(file)[:EXAMPLES]
        for name, file in _FILES.items()
        if folder.path(file).is_file()
    }
    counts = {name: each.counts for name, each in steps.items()}
    return DryRun(passages, counts, examples, seconds, count)
