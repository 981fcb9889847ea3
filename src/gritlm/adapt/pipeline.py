"""An adaptation: its steps in order, each of which is skipped if it has finished before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gritlm.adapt import collection, fusion_step, measuring, report_tasks
from gritlm.adapt.adapter_training import ADAPTER, FILE, ModelFacts, train_adapter
from gritlm.adapt.collection import HELD_OUT, TRAIN, CollectedPassage, of_split
from gritlm.adapt.config import AdaptConfig
from gritlm.adapt.report_tasks import ReportTasks
from gritlm.adapt.rows import hard_negatives, questions, real_questions, round_trip, training_rows
from gritlm.adapt.rows.hard_negatives import HardNegatives
from gritlm.adapt.rows.questions import QuestionMaker
from gritlm.adapt.rows.round_trip import RoundTrip
from gritlm.adapt.rows.writers import writer_for
from gritlm.adapt.run_folder import FinishedStep, MadeRows, Row, RunFolder, Spread
from gritlm.adapt.starting_model import StartingModel
from gritlm.adapt.verdict import Verdict
from gritlm.errors import require_libraries
from gritlm.evaluation import fingerprints
from gritlm.rag import needs
from gritlm.rag.ingest.skips import Skips

log = logging.getLogger(__name__)

Report = Callable[[str], None]
_ASKED = "asked.jsonl"
_NAMED_SKIPS = 5  # files that could not be read, which the log names


@dataclass(frozen=True)
class AdaptResult:
    """Result of an adaptation.

    Attributes:
        folder: folder of the run, which is the adapter.
        verdict: whether the adapter should be used.
        counts: counts of each step.
        seconds: duration of each step, in seconds.
        report: folder of the report.
    """

    folder: Path
    verdict: Verdict
    counts: Mapping[str, Mapping[str, int]]
    seconds: Mapping[str, float]
    report: Path


def adapt(
    config: AdaptConfig,
    *,
    report: Report = log.info,
    progress: bool | None = None,
    spread: Spread = map,
) -> AdaptResult:
    """Adapt a model to a collection of documents, and measure the difference.

    Documents are split into a training and a held-out part before questions are written. The folder
    of the run keeps every step, so that an interrupted run goes on where it stopped.

    Args:
        config: settings of the run.
        report: callback for lines of the log.
        progress: show progress bars; None: on a terminal.
        spread: applies the function of a step to batches of rows, in their order.

    Returns:
        The folder of the adapter, the verdict, and counts and seconds of each step.

    Raises:
        InputError: for too few passages, other settings than those of the run in the folder, a
            folder that another process uses, a model without an LM head, a full disk, or questions
            that cannot be read.
        MissingExtraError: if a library is not installed.
        TrainingError: if the training cannot continue.
        KeyboardInterrupt: after ctrl-C; the same call goes on.
    """
    require_libraries_of(config)
    folder = RunFolder(Path(config.to), spread)
    try:
        return Adaptation(config, folder, report, progress).run()
    finally:
        folder.close()


def require_libraries_of(config: AdaptConfig) -> None:
    """Check that all libraries of a run are installed, and that its general tasks exist.

    Raises:
        MissingExtraError: for a missing library.
        InputError: for an unknown general task.
    """
    needs.require()
    require_libraries(("datasets", "matplotlib"), what="training needs", extra="train")
    measuring.general_tasks(config)


class Adaptation:
    """A run: its folder, its model, and its steps.

    Args:
        config: settings of the run.
        folder: folder of the run.
        report: callback for lines of the log.
        progress: show progress bars; None: on a terminal.
    """

    def __init__(
        self, config: AdaptConfig, folder: RunFolder, report: Report, progress: bool | None
    ) -> None:
        self.config = config
        self.folder = folder
        self.model = StartingModel(config.model, config.device)
        self._report = report
        self._progress = progress
        self._verdict: Verdict | None = None

    def run(self) -> AdaptResult:
        """Run all steps, and return the result."""
        self.begin()
        self.make_rows()
        self._step(
            "training",
            self._train,
            reads=[training_rows.PAIRS, training_rows.ANSWERS, training_rows.CHATS],
            writes=[FILE, ADAPTER],
        )
        self.model.free()
        self._step(
            "calibration",
            lambda: fusion_step.calibrate_adapter(self.folder, self.config.device),
            reads=[ADAPTER, report_tasks.CALIBRATION],
            writes=[fusion_step.SETTINGS],
        )
        self._step(
            "report",
            self._measure,
            reads=[ADAPTER, fusion_step.SETTINGS, report_tasks.LIST],
            writes=[measuring.VERDICT],
        )
        steps = self.folder.steps()
        verdict = self._verdict or measuring.read_verdict(self.folder)
        return AdaptResult(
            folder=self.folder.root,
            verdict=verdict,
            counts={name: step.counts for name, step in steps.items()},
            seconds={name: step.seconds for name, step in steps.items()},
            report=self.folder.root / measuring.REPORT,
        )

    def begin(self) -> None:
        """Open the folder of the run, and collect the passages."""
        config = self.config
        given = (config.questions, config.report_questions, config.chats)
        sources = fingerprints.of_values(
            collection.digest_sources(config.documents),
            [None if path is None else collection.digest_sources([path]) for path in given],
        )
        self.folder.open(config.fixed(), sources)
        step = self._step("passages", self._collect, reads=[], writes=[collection.FILE])
        if advice := collection.advice(step.counts[TRAIN]):
            self._report(f"note: {advice}")

    def make_rows(self) -> None:
        """Write questions, filter them, and write the rows of training and the tasks."""
        written = [questions.FILE, _ASKED]
        self._step("questions", self._ask, reads=[collection.FILE], writes=written)
        self._step(
            "filter",
            self._filter,
            reads=[collection.FILE, *written],
            writes=[round_trip.FILE],
        )
        self._step(
            "negatives",
            self._mine,
            reads=[collection.FILE, round_trip.FILE],
            writes=[hard_negatives.FILE],
        )
        self._step(
            "rows",
            self._write_rows,
            reads=[collection.FILE, hard_negatives.FILE],
            writes=[training_rows.PAIRS, training_rows.ANSWERS, report_tasks.CALIBRATION],
        )
        if self.config.chats is None:
            self._step("chats", self._chat, reads=[], writes=[training_rows.CHATS])
        self._step(
            "tasks",
            self._write_tasks,
            reads=[collection.FILE, *written],
            writes=[report_tasks.LIST],
        )

    @cached_property
    def passages(self) -> list[CollectedPassage]:
        """Passages of both parts of the collection, the training part first."""
        return collection.load(self.folder.read(collection.FILE))

    def forget_passages(self) -> None:
        """Read the passages again at their next use: their file has changed."""
        self.__dict__.pop("passages", None)

    @property
    def trained(self) -> list[CollectedPassage]:
        """Passages of the training part."""
        return of_split(self.passages, TRAIN)

    def _step(
        self,
        name: str,
        work: Callable[[], Mapping[str, int]],
        *,
        reads: Sequence[str],
        writes: Sequence[str],
    ) -> FinishedStep:
        step, ran = self.folder.run_step(name, work, reads=reads, writes=writes)
        counts = ", ".join(f"{count:,} {reason}" for reason, count in step.counts.items())
        done = f"{step.seconds:.0f} s" if ran else "finished before"
        self._report(f"{name}: {counts or 'done'} ({done})")
        return step

    def _collect(self) -> Mapping[str, int]:
        skips = Skips()
        assembler = self.model.assembler
        try:
            made = collection.collect(self.config, self.model.model, assembler, skips)
        finally:  # also before the error of a collection of which nothing could be read
            for skipped in skips.named[:_NAMED_SKIPS]:
                self._report(f"skipped {skipped.path}: {skipped.reason}")
        if skips.count:
            made.counts["files and rows skipped"] = skips.count
        if note := collection.language_note(collection.load(made.rows), assembler):
            self._report(f"note: {note}")
        self.folder.write(collection.FILE, made.rows)
        return made.counts

    def _ask(self) -> Mapping[str, int]:
        maker = QuestionMaker(
            self.config, self.model, writer_for(self.config, self.model), self.passages
        )
        made = maker.make(self.folder, progress=self._progress)
        asked = self._asked()
        self.folder.write(questions.FILE, made.rows)
        self.folder.write(_ASKED, asked.rows)
        self.folder.finish_batches(questions.FILE)
        asked.counts["questions people asked"] = asked.counts.pop("kept", 0)
        return made.counts + asked.counts

    def _asked(self) -> MadeRows:
        """Return the questions of people from both files; ``trained`` marks those of the first."""
        found = MadeRows()
        for path, trained in ((self.config.questions, True), (self.config.report_questions, False)):
            if path is not None:
                rows = real_questions.read(path)
                made = real_questions.assign(rows, self.passages, self.model)
                made.rows = [{**row, "trained": trained} for row in made.rows]
                found.add(made)
        return found

    def _filter(self) -> Mapping[str, int]:
        asked = [row for row in self.folder.read(_ASKED) if row["trained"]]
        every = questions.distinct(MadeRows([*asked, *self.folder.read(questions.FILE)])).rows
        rows = [row for row in every if row["split"] == TRAIN]
        trip = RoundTrip(self.config, self.model, self.trained)
        made = MadeRows(rows)
        if "filter" in self.config.without:
            made.counts["kept"] = len(rows)
        else:
            made = trip.filter(rows, self.folder, progress=self._progress)
        self.folder.write(round_trip.FILE, made.rows)
        self.folder.finish_batches(round_trip.FILE)
        return made.counts

    def _mine(self) -> Mapping[str, int]:
        rows = self.folder.read(round_trip.FILE)
        if "negatives" in self.config.without:
            made = MadeRows([{**row, "negatives": []} for row in rows])
            made.counts["kept"] = len(rows)
        else:
            mining = HardNegatives(self.config, self.model, self.trained)
            made = mining.mine(rows, self.folder, progress=self._progress)
        self.folder.write(hard_negatives.FILE, made.rows)
        self.folder.finish_batches(hard_negatives.FILE)
        return made.counts

    def _write_rows(self) -> Mapping[str, int]:
        rows = self.folder.read(hard_negatives.FILE)
        kept, aside = fusion_step.set_aside(rows, seed=self.config.seed)
        training_rows.require_enough(len(kept))
        counts = training_rows.write_rows(self.folder, kept, self.trained)
        calibrating = training_rows.answers_over(aside, self.trained)
        self.folder.write(report_tasks.CALIBRATION, calibrating)
        return {**counts, "for calibration": len(calibrating)}

    def _chat(self) -> Mapping[str, int]:
        return training_rows.write_chats(self.folder, self.model)

    def _write_tasks(self) -> Mapping[str, int]:
        held_out = [r for r in self.folder.read(questions.FILE) if r["split"] == HELD_OUT]
        asked = [row for row in self.folder.read(_ASKED) if _may_be_reported(row)]
        tasks = ReportTasks(
            self.folder,
            self.passages,
            self.model.model.settings.query_instruction,
            self.config.report_limit,
        )
        return tasks.write(held_out, asked, self.model)

    def _train(self) -> Mapping[str, int]:
        facts = ModelFacts.of(self.model)
        self.model.free()
        return train_adapter(
            self.config, self.folder, facts, report=self._report, progress=self._progress
        )

    def _measure(self) -> Mapping[str, int]:
        found, self._verdict = measuring.measure(
            self.config, self.folder, report=self._report, progress=self._progress
        )
        return measuring.counts_of(found)


def _may_be_reported(row: Row) -> bool:
    """Return whether a question of a person is neither trained nor of an unknown passage."""
    return bool(row["known"]) and (row["split"] == HELD_OUT or not row["trained"])
