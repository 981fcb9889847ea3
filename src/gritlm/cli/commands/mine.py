"""``gritlm mine``: hard negatives for training data."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gritlm.cli import files, logs
from gritlm.cli.options import DefaultInstructions, InputFormat, ModelOptions, SkipBad
from gritlm.cli.output import STDOUT, Format, WriteOptions, json_line, replacing, require_json_lines
from gritlm.errors import InputError

if TYPE_CHECKING:
    from gritlm.train.data.examples import EmbeddingExample, InstructedText
    from gritlm.train.mining.negatives import MiningConfig


_MAX_SKIPPED = 20  # maximum number of skipped rows that are listed


class Sampling(StrEnum):
    """Choice among the allowed passages."""

    top = "top"
    random = "random"


@dataclass(frozen=True)
class MiningOptions:
    """Mining options, with the defaults of ``gritlm.train.mining.negatives``."""

    num_negatives: Annotated[int, typer.Option(min=1, help="Number of negatives per query.")] = 5
    range_min: Annotated[
        int, typer.Option(min=0, help="Number of nearest allowed passages to skip.")
    ] = 0
    range_max: Annotated[
        int,
        typer.Option(min=1, help="Number of nearest passages to consider, without positives."),
    ] = 50
    max_score: Annotated[float | None, typer.Option(help="Maximum score of a negative.")] = None
    min_score: Annotated[float | None, typer.Option(help="Minimum score of a negative.")] = None
    absolute_margin: Annotated[
        float | None,
        typer.Option(
            help="Minimum distance of a negative's score below that of the query's worst positive."
        ),
    ] = None
    relative_margin: Annotated[
        float | None,
        typer.Option(help="The same distance relative to that score: 0.05 is 5%."),
    ] = None
    sampling: Annotated[
        Sampling,
        typer.Option(help="top: the nearest allowed passages; random: a random sample of them."),
    ] = Sampling.top
    seed: Annotated[int, typer.Option(help="Random seed.")] = 42
    query_max_len: Annotated[
        int | None, typer.Option(min=2, help="Truncate queries to this number of tokens.")
    ] = None
    passage_max_len: Annotated[
        int | None, typer.Option(min=2, help="Truncate passages to this number of tokens.")
    ] = None

    def settings(self) -> MiningConfig:
        """Return the checked settings.

        Raises:
            InputError: for bounds that allow fewer negatives than are wanted.
        """
        from gritlm.train.mining.negatives import MiningConfig

        return MiningConfig(**{**asdict(self), "sampling": self.sampling.value})


def mine(
    file: Annotated[str, typer.Argument(help="Rows with 'query', 'pos' and, optionally, 'neg'.")],
    *,
    output: Annotated[str, typer.Option("--output", "-o", help="Output file, as JSON lines.")],
    corpus: Annotated[
        str | None, typer.Option(help="File of more passages: texts, or JSON lines with a 'text'.")
    ] = None,
    instructions: DefaultInstructions,
    skip_bad: SkipBad = False,
    mining: MiningOptions,
    model: ModelOptions,
) -> None:
    """Add hard negatives to training data.

    Hard negatives are passages of FILE and --corpus that the model scores as relevant to a query
    and that are not among its positives.
    """
    from gritlm.train.mining.mine import mine_rows

    target = _checked_output(output, inputs=[file] if corpus is None else [file, corpus])
    settings = mining.settings()
    rows = _rows(file, instructions, skip_bad=skip_bad)
    passages = _corpus(corpus, instructions.passage_instruction)
    lm = model.load(mode="embedding")
    found: Counter[int] = Counter()  # queries by their number of negatives
    with replacing(target) as unfinished:
        for record in mine_rows(lm, rows, settings, corpus=passages, progress=logs.progress()):
            unfinished.write(json_line(record).encode("utf-8"))
            found[len(record["neg"])] += 1
    _report(found, wanted=settings.num_negatives)


def _checked_output(output: str, *, inputs: list[str]) -> Path:
    """Return the output file, checked before a model is loaded.

    Raises:
        InputError: for stdout, a file that cannot be written, or an input file.
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
    file: str, instructions: DefaultInstructions, *, skip_bad: bool
) -> list[EmbeddingExample]:
    """Read the examples of a file, with a note for each skipped row."""
    from gritlm.train.config import SourceConfig
    from gritlm.train.data import skipped, sources
    from gritlm.train.data.examples import EmbeddingExample

    source = SourceConfig(file, **asdict(instructions))
    rows = sources.load(source, "embedding", deduplicate=False, skip_bad=skip_bad)
    for line in skipped.lines(rows, most=_MAX_SKIPPED):
        logs.note(line)
    return [row for row in rows if isinstance(row, EmbeddingExample)]


def _corpus(corpus: str | None, instruction: str) -> list[InstructedText]:
    """Read the further passages; none without a file."""
    from gritlm.train.data.examples import InstructedText

    if corpus is None:
        return []
    items = files.read_items(corpus, input_format=InputFormat.auto, field="text")
    return [InstructedText(item.text, instruction) for item in items]


def _report(found: Counter[int], *, wanted: int) -> None:
    """Print the number of queries by their number of negatives.

    Rows of the input may have more negatives than are wanted.
    """
    enough = sum(queries for count, queries in found.items() if count >= wanted)
    fewer = [f"{found[count]} have {count}" for count in range(wanted - 1, -1, -1) if found[count]]
    counts = [f"{enough} of {found.total()} queries have {wanted} negatives or more", *fewer]
    hint = " (for more: a larger --range-max, wider bounds, or a --corpus)" if fewer else ""
    logs.note("; ".join(counts) + hint)
