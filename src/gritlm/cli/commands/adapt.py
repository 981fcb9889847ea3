"""``gritlm adapt``: a model that knows the field of a folder of documents, with a report."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gritlm.cli import logs, terminal
from gritlm.cli.bulk import BulkRayOptions
from gritlm.errors import InputError

if TYPE_CHECKING:
    from gritlm.adapt.config import AdaptConfig
    from gritlm.adapt.dry_run import DryRun
    from gritlm.adapt.pipeline import AdaptResult

INTERRUPTED = 130
QUESTIONS = "Questions"  # panels of --help
TRAINING = "Training"
REPORT = "Report"
_SHOWN = 160  # characters of a value of an example


class Kind(StrEnum):
    """Kinds of questions."""

    factual = "factual"
    topic = "topic"
    keyword = "keyword"
    claim = "claim"


class LeftOut(StrEnum):
    """Stages that can be left out."""

    filter = "filter"
    negatives = "negatives"
    kl = "kl"


@dataclass(frozen=True)
class QuestionOptions:
    """Origin, kinds and filters of the questions."""

    questions: Annotated[
        str | None,
        typer.Option(
            help="JSON lines of questions people asked, to train on: question, and if known "
            "document or passage, answer.",
            rich_help_panel=QUESTIONS,
        ),
    ] = None
    questions_from: Annotated[
        str | None,
        typer.Option(
            help="Endpoint of OpenAI's API that writes the questions; the model itself when left "
            "out.",
            metavar="openai:BASE_URL#MODEL",
            rich_help_panel=QUESTIONS,
        ),
    ] = None
    kinds: Annotated[
        list[Kind] | None,
        typer.Option(
            "--kind",
            help="Kind of questions; may be repeated. All when left out.",
            rich_help_panel=QUESTIONS,
        ),
    ] = None
    per_passage: Annotated[
        int,
        typer.Option(
            min=1,
            help="Most factual questions, and most topic questions, of a passage.",
            rich_help_panel=QUESTIONS,
        ),
    ] = 2
    top_k: Annotated[
        int,
        typer.Option(
            min=1,
            help="The passage of a question must be among this many nearest ones.",
            rich_help_panel=QUESTIONS,
        ),
    ] = 10
    negatives: Annotated[
        int, typer.Option(min=1, help="Hard negatives of a question.", rich_help_panel=QUESTIONS)
    ] = 1
    margin: Annotated[
        float,
        typer.Option(
            min=0,
            help="Least distance of a negative's log-likelihood below that of the passage.",
            rich_help_panel=QUESTIONS,
        ),
    ] = 0.1


@dataclass(frozen=True)
class AdapterOptions:
    """Model, and length and settings of its training."""

    model: Annotated[
        str, typer.Option("--model", "-m", help="default, base, or a folder or hub id.")
    ] = "default"
    minutes: Annotated[
        float, typer.Option(min=0.01, help="Minutes of training.", rich_help_panel=TRAINING)
    ] = 30.0
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps, instead of minutes.", rich_help_panel=TRAINING),
    ] = None
    batch_size: Annotated[
        int, typer.Option(min=1, help="Questions of a step.", rich_help_panel=TRAINING)
    ] = 16
    frozen: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.99,
            help="Share of the layers, from the lowest one, that are not trained.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.5
    learning_rate: Annotated[
        float, typer.Option(help="Peak learning rate.", rich_help_panel=TRAINING)
    ] = 1e-4
    lora_r: Annotated[
        int,
        typer.Option(
            min=1,
            help="Rank of a new adapter; an adapter of the model is continued with its own.",
            rich_help_panel=TRAINING,
        ),
    ] = 16
    kl_weight: Annotated[
        float,
        typer.Option(
            min=0, help="Weight that holds the model to its base.", rich_help_panel=TRAINING
        ),
    ] = 1.0
    chats: Annotated[
        str | None,
        typer.Option(
            help="File of general conversations that hold the model to its base; its own answers "
            "to general requests when left out.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    without: Annotated[
        list[LeftOut] | None,
        typer.Option(
            help="Leave out a stage, to measure its worth; may be repeated.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    seed: Annotated[int, typer.Option(help="Random seed.", rich_help_panel=TRAINING)] = 42
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1, mps; the best one found when left out.",
            rich_help_panel=TRAINING,
        ),
    ] = None


@dataclass(frozen=True)
class AdaptReportOptions:
    """Held-out documents and tasks of the report."""

    held_out: Annotated[
        float,
        typer.Option(help="Share of documents that are not trained.", rich_help_panel=REPORT),
    ] = 0.15
    report_questions: Annotated[
        str | None,
        typer.Option(
            help="As --questions, but only for the report: no question is trained.",
            rich_help_panel=REPORT,
        ),
    ] = None
    general: Annotated[
        list[str] | None,
        typer.Option(
            help="Sample task that shows whether general abilities are kept; may be repeated. Four "
            "when left out, 'none' for no such task.",
            rich_help_panel=REPORT,
        ),
    ] = None
    general_data: Annotated[
        str | None,
        typer.Option(help="Folder of more such tasks.", rich_help_panel=REPORT),
    ] = None
    report_limit: Annotated[
        int, typer.Option(min=1, help="Most rows of a task.", rich_help_panel=REPORT)
    ] = 200


@dataclass(frozen=True)
class DocumentOptions:
    """Passages of the documents."""

    text_field: Annotated[str | None, typer.Option(help="Name of the text in rows of files.")] = (
        None
    )
    max_passages: Annotated[int, typer.Option(min=1, help="Most passages that are used.")] = 2000
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a passage.")] = 256


@dataclass(frozen=True)
class AdaptRunOptions(BulkRayOptions):
    """Trial of a run, and work on a Ray cluster."""

    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print examples of each step and an estimate; write nothing."
        ),
    ] = False


def adapt(
    documents: Annotated[list[str], typer.Argument(help="Files and folders, as for gritlm index.")],
    *,
    to: Annotated[str, typer.Option(help="Folder of the run, which becomes the adapter.")],
    passages: DocumentOptions,
    questions: QuestionOptions,
    training: AdapterOptions,
    report: AdaptReportOptions,
    running: AdaptRunOptions,
) -> None:
    """Adapt a model to a field: from a folder of documents to an adapter with a report.

    The model writes questions about the documents, filters them, finds hard negatives, and is
    trained on them. Some documents are held out to measure the difference. Prints whether the
    adapter should be used. After ctrl-C the same command goes on. With --ray, the workers of a
    cluster write and filter the questions.
    """
    running.require_ray()
    if running.ray and running.dry_run:
        raise InputError("--dry-run is a trial in one process; leave --ray out")
    from gritlm.adapt.config import AdaptConfig

    given: dict[str, Any] = {
        **vars(passages),
        **vars(questions),
        **vars(training),
        **vars(report),
    }
    for name in ("kinds", "without"):
        given[name] = tuple(each.value for each in given[name] or ())
    if not given["kinds"]:
        del given["kinds"]
    general = given.pop("general")
    if general is not None:
        given["general"] = tuple(name for name in general if name != "none")
    config = AdaptConfig(documents=tuple(documents), to=to, **given)
    logs.hush_libraries()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        if running.ray:
            _print_result(_spread(config, running))
        else:
            _run(config, dry_run=running.dry_run)
    except KeyboardInterrupt:
        more = "" if running.dry_run else "; the same command goes on from there"
        logs.write_message("stopped", f"the finished steps are in {to}{more}")
        raise typer.Exit(INTERRUPTED) from None


def _spread(config: AdaptConfig, ray: BulkRayOptions) -> AdaptResult:
    from gritlm.scale import adapt as start

    return start(
        config,
        workers=ray.pool(None),
        address=ray.cluster,
        report=logs.note_above_bar,
        progress=logs.progress(),
    )


def _run(config: AdaptConfig, *, dry_run: bool) -> None:
    from gritlm.adapt.dry_run import try_out
    from gritlm.adapt.pipeline import adapt as start

    if dry_run:
        _print_trial(try_out(config, report=logs.note_above_bar, progress=logs.progress()))
        return
    _print_result(start(config, report=logs.note_above_bar, progress=logs.progress()))


def _print_result(result: AdaptResult) -> None:
    for each in result.verdict.differences:
        terminal.write(f"{each}\n")
    terminal.write(f"{result.verdict.sentence}\n")
    terminal.write(f"{result.report / 'report.html'}\n{result.folder}\n")


def _print_trial(trial: DryRun) -> None:
    for step, rows in trial.examples.items():
        terminal.write(f"{step}:\n")
        for row in rows:
            terminal.write(f"  {json.dumps(_shortened(row), ensure_ascii=False)}\n")
    for step, seconds in trial.seconds.items():
        terminal.write(f"{step}: about {_duration(seconds)}\n")
    terminal.write(
        f"{trial.steps} training steps; all steps but the report take about "
        f"{_duration(trial.total)} on this machine\n"
    )


def _shortened(value: Any) -> Any:
    """Return a value of an example with long texts cut."""
    if isinstance(value, dict):
        return {name: _shortened(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shortened(each) for each in value]
    if isinstance(value, str) and len(value) > _SHOWN:
        return f"{value[:_SHOWN]}..."
    return value


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
