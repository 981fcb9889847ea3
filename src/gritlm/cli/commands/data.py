"""``gritlm data check``: a check of training data before a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from gritlm.cli import logs, terminal
from gritlm.cli.options import DefaultInstructions
from gritlm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Table
    from rich.text import Text

    from gritlm.lm.hub.model_config import ModelSettings
    from gritlm.lm.tokens import SegmentTokenizer
    from gritlm.train.data.inspect import LabelledSpan, Mark
    from gritlm.train.data.validation import ValidationResult


class RowKind(StrEnum):
    """Kind of the training examples."""

    embedding = "embedding"
    generative = "generative"
    rag = "rag"


@dataclass(frozen=True)
class LengthOptions:
    """Maximum lengths in tokens; the defaults are those of a training run."""

    query_max_len: Annotated[
        int, typer.Option(min=2, help="Maximum length of a query, in tokens.")
    ] = 256
    passage_max_len: Annotated[
        int, typer.Option(min=2, help="Maximum length of a passage, in tokens.")
    ] = 2048
    generative_max_len: Annotated[
        int, typer.Option(min=2, help="Maximum length of a conversation or RAG example, in tokens.")
    ] = 2048


def check(
    file: Annotated[str, typer.Argument(help="File, folder or dataset id of the training data.")],
    *,
    kind: Annotated[
        RowKind | None,
        typer.Option(help="Kind of the examples. Default: detected from the first row."),
    ] = None,
    lengths: LengthOptions,
    instructions: DefaultInstructions,
    sample: Annotated[
        int, typer.Option(min=0, help="Number of rows to show as training reads them.")
    ] = 1,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Exit with code 0 if training can skip all bad rows."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Folder or hub id of the model; only its tokenizer is loaded."
        ),
    ] = None,
) -> None:
    """Check training data: report problems and lengths, and show pooled and trained tokens.

    Exits with code 2 if there is a problem; with --skip-bad, only if no row can be used.
    """
    from gritlm.train.config import DataConfig, SourceConfig
    from gritlm.train.data.validation import ResultLimits, check_rows

    source = SourceConfig(file, **asdict(instructions))
    tokens, settings = _tokenizer(model)
    found = check_rows(
        source,
        tokens,
        settings,
        DataConfig(**asdict(lengths)),
        kind=None if kind is None else kind.value,
        limits=ResultLimits(samples=sample),
        progress=logs.progress(),
    )
    _show(found, skip_bad=skip_bad)
    if skip_bad and found.refused == found.rows:
        raise InputError(f"{file}: none of its {found.rows:,} rows can be used; see the list above")
    if found.problem_count and not skip_bad:
        problems = "1 problem" if found.problem_count == 1 else f"{found.problem_count:,} problems"
        raise InputError(f"{file}: {problems} in {found.rows:,} rows; see the list above")


def _tokenizer(model: str | None) -> tuple[SegmentTokenizer, ModelSettings]:
    from gritlm.lm.hub import checkpoint, default_model
    from gritlm.lm.hub.load import load_tokenizer
    from gritlm.lm.tokens import SegmentTokenizer

    logs.hush_libraries()
    if model is None:
        default_model.ensure(report=logs.note)
    source, adapter = checkpoint.resolve(model, None)
    tokenizer, settings = load_tokenizer(source, adapter=adapter)
    return SegmentTokenizer(tokenizer), settings


def _show(found: ValidationResult, *, skip_bad: bool) -> None:
    terminal.draw(_counts(found, skip_bad=skip_bad))
    if found.lengths:
        terminal.draw("", _lengths(found))
    problems = ["\nProblems:", *found.problems] if found.problems else []
    if unseen := found.problem_count - len(found.problems):
        problems.append(f"... and {unseen:,} more")
    samples = _samples(found, coloured=terminal.has_colours())
    terminal.draw(*samples, *map(terminal.text, problems), wrap=False)


def _counts(found: ValidationResult, *, skip_bad: bool) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False)
    table.add_row("kind", found.kind)
    table.add_row("rows", f"{found.rows:,}")
    table.add_row("duplicates", f"{found.duplicates:,}", "training leaves them out")
    if found.kind == "embedding":
        nearly = f"{found.nearly_equal:,}"
        table.add_row("negatives like a positive", nearly, "training does not count them")
    else:
        unlabelled = f"{found.unlabelled:,}"
        table.add_row("without an answer when cut", unlabelled, "training skips them")
    then = "--skip-bad skips them" if skip_bad else "training stops there"
    table.add_row("that cannot be used", f"{found.refused:,}", then)
    return table


def _lengths(found: ValidationResult) -> Table:
    from rich.table import Table

    table = Table("in tokens", box=None)
    for name in ("texts", "median", "95% up to", "longest", "cut at", "are cut"):
        table.add_column(name, justify="right")
    for each in found.lengths:
        numbers = (each.count, each.median, each.p95, each.longest, each.limit, each.cut)
        table.add_row(each.what, *(f"{number:,}" for number in numbers))
    return table


# Style of each kind of span on a terminal with colours, and its brackets elsewhere.
_MARKS: dict[Mark, tuple[str, str, str]] = {
    "header": ("dim", "", ""),
    "pooled": ("bold cyan", "[[", "]]"),
    "trained": ("bold green", "{{", "}}"),
    "other": ("", "", ""),
}


def _samples(found: ValidationResult, *, coloured: bool) -> Iterator[Text]:
    """Yield a legend of the marks, then the sample rows as training reads them."""
    if not found.samples:
        return
    embeds = found.kind == "embedding"
    mark = _span("this", "pooled" if embeds else "trained", coloured=coloured)
    meaning = " becomes the vector:" if embeds else " is learned:"
    yield terminal.text("\nWhat training reads; ").append_text(mark).append(meaning)
    for place, views in found.samples:
        for view in views:
            yield terminal.text(f"\n{place} {view.name}:")
            yield _marked(view.pieces, coloured=coloured)


def _marked(pieces: Sequence[LabelledSpan], *, coloured: bool) -> Text:
    return terminal.text("").join(
        _span(piece.text, piece.mark, coloured=coloured) for piece in pieces
    )


def _span(text: str, mark: Mark, *, coloured: bool) -> Text:
    style, left, right = _MARKS[mark]
    return terminal.text(text, style) if coloured else terminal.text(f"{left}{text}{right}")
