"""``gritlm mine``: hard negatives for a file of training rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gritlm.cli import files, logs
from gritlm.cli.options import InputFormat, ModelOptions
from gritlm.cli.output import STDOUT, Format, WriteOptions, json_line, replacing, require_json_lines
from gritlm.errors import InputError

if TYPE_CHECKING:
    from gritlm.train.data.examples import EmbeddingExample, InstructedText
    from gritlm.train.mining.negatives import MiningConfig


_SKIPPED = 20  # rows that the log names


class Sampling(StrEnum):
    """Which of the allowed passages are taken."""

    top = "top"
    random = "random"


@dataclass(frozen=True)
class MiningOptions:
    """Options of mining; the defaults are those of ``gritlm.train.mining.negatives``."""

    num_negatives: Annotated[int, typer.Option(min=1, help="How many a query has at the end.")] = 5
    range_min: Annotated[
        int, typer.Option(min=0, help="Pass over so many of the nearest allowed passages.")
    ] = 0
    range_max: Annotated[
        int,
        typer.Option(min=1, help="Look only at so many of the nearest passages, positives aside."),
    ] = 50
    max_score: Annotated[float | None, typer.Option(help="Highest score of a negative.")] = None
    min_score: Annotated[float | None, typer.Option(help="Lowest score of a negative.")] = None
    absolute_margin: Annotated[
        float | None,
        typer.Option(
            help="A negative scores at least so much less than its query's worst positive."
        ),
    ] = None
    relative_margin: Annotated[
        float | None,
        typer.Option(help="The same as a share of that score: 0.05 is 5% less."),
    ] = None
    sampling: Annotated[
        Sampling, typer.Option(help="The nearest allowed passages, or random ones of them.")
    ] = Sampling.top
    seed: Annotated[int, typer.Option(help="Same seed, same random ones.")] = 42
    query_max_len: Annotated[
        int | None, typer.Option(min=2, help="Cut longer queries, in tokens.")
    ] = None
    passage_max_len: Annotated[
        int | None, typer.Option(min=2, help="Cut longer passages, in tokens.")
    ] = None

    def settings(self) -> MiningConfig:
        """The settings, checked.

        Raises:
            InputError: when they leave no room for the negatives.
        """
        from gritlm.train.mining.negatives import MiningConfig

        return MiningConfig(**{**asdict(self), "sampling": self.sampling.value})


def mine(
    file: Annotated[str, typer.Argument(help="Rows with 'query', 'pos' and, maybe, 'neg'.")],
    *,
    output: Annotated[str, typer.Option("--output", "-o", help="File to write, JSON lines.")],
    corpus: Annotated[
        str | None, typer.Option(help="More passages: texts or JSON lines with a 'text'.")
    ] = None,
    instruction: Annotated[
        str, typer.Option(help="For queries without one of their own, as plain words.")
    ] = "",
    passage_instruction: Annotated[str, typer.Option(help="The same for passages.")] = "",
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Skip rows that cannot be used, count and list them."),
    ] = False,
    mining: MiningOptions,
    model: ModelOptions,
) -> None:
    """Add hard negatives to training rows.

    Negatives are passages of FILE and --corpus that the model takes for answers, and that are not.
    """
    from gritlm.train.mining.mine import mine_rows

    target = _target(output, inputs=[file] if corpus is None else [file, corpus])
    settings = mining.settings()
    rows = _rows(file, instruction, passage_instruction, skip_bad=skip_bad)
    passages = _corpus(corpus, passage_instruction)
    lm = model.load(mode="embedding")
    found: Counter[int] = Counter()
    with replacing(target) as unfinished:
        for record in mine_rows(lm, rows, settings, corpus=passages, progress=logs.progress()):
            unfinished.write(json_line(record).encode("utf-8"))
            found[len(record["neg"])] += 1
    _report(found, wanted=settings.num_negatives)


def _target(output: str, *, inputs: list[str]) -> Path:
    """Where to write, checked before any work is done.

    Raises:
        InputError: for stdout, a file that cannot be written, or one that is read.
    """
    path = WriteOptions(output, Format.jsonl).destination().path
    if path is None:
        raise InputError(f"--output {STDOUT}: the rows are written to a file; expected its name")
    for name in inputs:
        if path.exists() and Path(name).exists() and path.samefile(name):
            raise InputError(f"--output {path} is the file that is read; name another one")
    require_json_lines(path)
    return path


def _rows(
    file: str, instruction: str, passage_instruction: str, *, skip_bad: bool
) -> list[EmbeddingExample]:
    from gritlm.train.config import SourceConfig
    from gritlm.train.data import skipped, sources
    from gritlm.train.data.examples import EmbeddingExample

    source = SourceConfig(file, instruction=instruction, passage_instruction=passage_instruction)
    rows = sources.load(source, "embedding", deduplicate=False, skip_bad=skip_bad)
    for line in skipped.lines(rows, most=_SKIPPED):
        logs.note(line)
    return [row for row in rows if isinstance(row, EmbeddingExample)]


def _corpus(corpus: str | None, instruction: str) -> list[InstructedText]:
    from gritlm.train.data.examples import InstructedText

    if corpus is None:
        return []
    items = files.read_items(corpus, input_format=InputFormat.auto, field="text")
    return [InstructedText(item.text, instruction) for item in items]


def _report(found: Counter[int], *, wanted: int) -> None:
    """How many queries have how many negatives; rows can have come with more than are wanted."""
    enough = sum(queries for count, queries in found.items() if count >= wanted)
    fewer = [f"{found[count]} have {count}" for count in range(wanted - 1, -1, -1) if found[count]]
    said = [f"{enough} of {found.total()} queries have {wanted} negatives or more", *fewer]
    hint = " (for more: a larger --range-max, wider bounds, or a --corpus)" if fewer else ""
    logs.note("; ".join(said) + hint)
