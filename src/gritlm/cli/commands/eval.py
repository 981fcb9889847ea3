"""``gritlm eval``: evaluation of models on tasks of text, images and sound."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gritlm.cli import calibration, figures, logs, terminal
from gritlm.cli.bulk import BulkRayOptions
from gritlm.cli.options import Dtype, Quantization
from gritlm.errors import InputError

if TYPE_CHECKING:
    from gritlm.evaluation.cache import ResultCache
    from gritlm.evaluation.outcome import Report
    from gritlm.evaluation.runner import RunnerOptions
    from gritlm.evaluation.tasks.suites import SuitePlan

NOTHING_RAN = 3  # exit code
INTERRUPTED = 130  # exit code, as after ctrl-C in a shell
TASKS = "Tasks"  # panels of --help
RUNNING = "Running"
RESULTS = "Results"


@dataclass(frozen=True)
class TaskOptions:
    """Tasks to measure."""

    suite: Annotated[
        str | None,
        typer.Option(
            help="quick (when left out), embedding, generation, rag, senses or full.",
            rich_help_panel=TASKS,
        ),
    ] = None
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Names with commas instead of a suite: local tasks, or of mteb or lm-eval.",
            rich_help_panel=TASKS,
        ),
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of local tasks; the samples of this package when left out.",
            rich_help_panel=TASKS,
        ),
    ] = None
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Only this many first rows of each task.", rich_help_panel=TASKS),
    ] = None

    def plan(self) -> SuitePlan:
        """Find and check the tasks.

        Raises:
            InputError: for an unknown suite or task, both of them, or a folder in the wrong
                layout.
            MissingExtraError: without a library that they need.
        """
        from gritlm.evaluation import harnesses, kinds
        from gritlm.evaluation.tasks import suites

        if self.tasks is not None and self.suite is not None:
            raise InputError(
                f"--suite {self.suite} and --tasks both say what is measured; leave one out"
            )
        names = [name.strip() for name in (self.tasks or "").split(",") if name.strip()]
        if self.tasks is not None and not names:
            raise InputError(f"--tasks {self.tasks!r} names no task; expected NAME,NAME")
        plan = suites.make_plan(
            self.suite or "quick", tasks=names, data=self.data, limit=self.limit, hubs=kinds.hubs()
        )
        for kind in dict.fromkeys(chosen.kind for chosen in plan.tasks):
            harnesses.require(kind)
        return plan


@dataclass(frozen=True)
class RunOptions:
    """Device, number format and batch size of the run."""

    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1, mps; the best one found when left out.",
            rich_help_panel=RUNNING,
        ),
    ] = None
    dtype: Annotated[
        Dtype | None,
        typer.Option(
            help="auto: as stored; left out: the fastest on this machine.", rich_help_panel=RUNNING
        ),
    ] = None
    quantization: Annotated[
        Quantization | None,
        typer.Option(help="Measure with quantised weights.", rich_help_panel=RUNNING),
    ] = None
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads to use.", rich_help_panel=RUNNING)
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Texts in a batch to embed.", rich_help_panel=RUNNING),
    ] = None
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad/--no-skip-bad",
            help="Leave out rows of local tasks that cannot be used, and name them; without it the "
            "first one ends the run.",
            rich_help_panel=RUNNING,
        ),
    ] = True

    def runner_options(self, *, elsewhere: bool = False) -> RunnerOptions:
        """Return the options of the runner, after setting the number of threads of torch.

        Args:
            elsewhere: whether other machines run the models; their devices are not checked here.

        Raises:
            InputError: for an unknown device, or one that this machine does not have.
        """
        from gritlm import runtime
        from gritlm.evaluation.runner import RunnerOptions
        from gritlm.lm import threads

        if not elsewhere:  # a missing device is refused before models are loaded
            runtime.choose_device(self.device)
        if self.threads is not None:
            threads.keep(self.threads)
        dtype = None if self.dtype is None else self.dtype.value
        return RunnerOptions(
            device=self.device,
            dtype=dtype,
            quantization=None if self.quantization is None else self.quantization.value,
            batch_size=self.batch_size,
            progress=not logs.is_quiet() and sys.stderr.isatty(),
            skip_bad=self.skip_bad,
        )


@dataclass(frozen=True)
class ResultOptions:
    """Folders of the report and of the cached results."""

    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder of the report.", rich_help_panel=RESULTS),
    ] = Path("eval-report")
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder of known results; in gritlm's cache folder when left out.",
            rich_help_panel=RESULTS,
        ),
    ] = None
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache", help="Measure all again, and keep nothing.", rich_help_panel=RESULTS
        ),
    ] = False

    def open_cache(self) -> ResultCache:
        """Return the cache, after checking that the report can be written.

        Raises:
            InputError: when the report cannot be written, or for --cache together with --no-cache.
        """
        from gritlm.evaluation import cache
        from gritlm.evaluation.report.write import require_folder

        if self.no_cache and self.cache is not None:
            raise InputError(
                f"--cache {self.cache} and --no-cache exclude each other; leave one out"
            )
        require_folder(self.output)
        if self.no_cache:
            return cache.ResultCache(None)
        return cache.ResultCache(self.cache or cache.default_folder())


def eval_(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders or hub ids, default or base; LABEL=MODEL gives one another name.",
            metavar="[MODEL]...",
        ),
    ] = None,
    *,
    tasks: TaskOptions,
    running: RunOptions,
    results: ResultOptions,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Measure nothing; choose the fusion settings of one model on the questions of a "
            "local RAG task (a folder), and write them into its gritlm.json if it is a folder.",
            metavar="TASK",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    ray: BulkRayOptions,
) -> None:
    """Measure embedding, generation and RAG of models, and write one report.

    Prints the figures; the folder of --output has them as JSON, Markdown and a page for a browser.
    Differences are to the first model. Exit code 3: nothing could be measured. With --ray, the
    tasks are measured by the workers of a cluster.
    """
    ray.require_ray()
    if ray.ray and calibrate is not None:
        raise InputError("--calibrate is one task, which one process measures; leave --ray out")
    if calibrate is not None:
        options = running.runner_options()
        calibration.run(models or ["default"], calibrate, options, limit=tasks.limit)
        return
    cache = results.open_cache()
    plan = tasks.plan()
    options = running.runner_options(elsewhere=ray.ray)
    logs.hush_libraries()
    from gritlm.evaluation.models import find_models
    from gritlm.evaluation.run import evaluate

    found = find_models(models or ["default"])
    command = shlex.join(["gritlm", *sys.argv[1:]])
    run = partial(_spread, ray, running.threads) if ray.ray else evaluate
    report = run(
        found, plan, cache=cache, options=options, command=command, watch=figures.print_step
    )
    _write_report(report, results.output)


def _write_report(report: Report, output: Path) -> None:
    """Write and print a report, and exit with the code of its run."""
    from gritlm.evaluation.report import view, write

    sections = view.sections(report)
    # Before the tables are printed: the reader of a pipe may have left.
    paths = write.write_report(report, output, sections)
    for each in view.reasons(report):
        logs.write_message("skipped", f"{each.model}: {', '.join(each.tasks)}: {each.reason}")
    figures.print_tables(sections, [model.name for model in report.models])
    terminal.write("".join(f"{path}\n" for path in paths))
    if report.stopped:
        logs.write_message(
            "stopped", "the report has what was measured; the same command goes on from there"
        )
        raise typer.Exit(INTERRUPTED)
    if report.is_empty:
        logs.write_message("error", "nothing could be measured")
        raise typer.Exit(NOTHING_RAN)


def _spread(
    ray: BulkRayOptions, threads: int | None, *measured: Any, command: str, **options: Any
) -> Report:
    """Evaluate on a cluster."""
    from gritlm.scale import evaluate

    pool = ray.pool(threads)
    report = evaluate(*measured, workers=pool, address=ray.cluster, **options)
    return replace(report, about={**report.about, "command": command})
