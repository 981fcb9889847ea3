"""Validation of a source before a run: all problems, lengths and samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from textwrap import shorten
from typing import get_args

from tqdm import tqdm

from gritlm.errors import InputError
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.train.config import DataConfig, SourceConfig
from gritlm.train.data import readers
from gritlm.train.data.collate import key
from gritlm.train.data.examples import EmbeddingExample, Kind, Row
from gritlm.train.data.formats import parse
from gritlm.train.data.inspect import ExampleView, view
from gritlm.train.data.lengths import LengthCounter, Lengths
from gritlm.train.data.readers import RecordReader
from gritlm.train.data.sources import digest, require_alike

KINDS: tuple[Kind, ...] = get_args(Kind)
FIRST = 100  # rows that are tried to detect the kind


@dataclass(frozen=True)
class ValidationResult:
    """Result of the validation of a source.

    Attributes:
        kind: stream of the rows.
        rows: number of rows, including unusable ones.
        duplicates: number of rows that equal an earlier row; training leaves them out.
        unlabelled: number of rows without a token in the loss after truncation; training skips
            them.
        nearly_equal: number of negatives nearly equal to a positive of their row; training does
            not use them as negatives.
        lengths: statistics of the lengths in tokens.
        problem_count: number of all problems, including unlabelled rows and nearly equal negatives.
        problems: first problems, each with its place.
        samples: (place, views of its prompts) of the first usable rows.
    """

    kind: Kind
    rows: int
    duplicates: int
    unlabelled: int
    nearly_equal: int
    lengths: tuple[Lengths, ...]
    problem_count: int
    problems: tuple[str, ...]
    samples: tuple[tuple[str, tuple[ExampleView, ...]], ...]

    @property
    def refused(self) -> int:
        """Number of rows that end a training run."""
        return self.problem_count - self.unlabelled - self.nearly_equal


@dataclass(frozen=True)
class ResultLimits:
    """Limits on the contents of a result.

    Attributes:
        samples: number of rows to return views of.
        problems: maximum number of problems to return.
    """

    samples: int = 1
    problems: int = 50


def check_rows(
    source: SourceConfig,
    tokens: SegmentTokenizer,
    settings: ModelSettings,
    data: DataConfig,
    *,
    kind: Kind | None = None,
    limits: ResultLimits = ResultLimits(),
    progress: bool | None = None,
) -> ValidationResult:
    """Validate all rows of a source.

    Args:
        source: the source.
        tokens: tokenizer of the model.
        settings: settings of the model, see :func:`gritlm.lm.hub.load.load_tokenizer`.
        data: settings with the maximum lengths.
        kind: stream of the rows; None: detected from the first rows.
        limits: limits on the samples and problems of the result.
        progress: whether to show a progress bar; None: on a terminal only.

    Raises:
        InputError: the source cannot be opened, or its rows have no known form.
    """
    parts = list(readers.find(source))
    kind = kind or _detect_kind(parts, source)
    findings = _Findings(tokens, LengthCounter(tokens, settings, data), limits)
    hidden = None if progress is None else not progress
    for part, index in tqdm(
        _row_positions(parts, source.cap), unit="row", disable=hidden, leave=False
    ):
        findings.rows += 1
        place = part.place(index)
        try:
            row = parse(part.record(index), kind, place=place, source=source)
        except InputError as error:  # its message has the place
            findings.problem(str(error))
        else:
            findings.add_row(place, row)
    return findings.summary(kind)


def _row_positions(
    parts: Sequence[RecordReader], most: int | None
) -> Iterator[tuple[RecordReader, int]]:
    every = ((part, index) for part in parts for index in range(len(part)))
    return islice(every, most)


def _detect_kind(parts: Sequence[RecordReader], source: SourceConfig) -> Kind:
    """Return the kind of the first row with a known form."""
    for part, index in _row_positions(parts, FIRST):
        for kind in KINDS:
            try:
                parse(part.record(index), kind, place=part.place(index), source=source)
            except InputError:
                continue
            return kind
    raise InputError(
        f"{source.path}: none of the first {FIRST} rows is of a kind that is known "
        f"({', '.join(KINDS)}); name the kind to see what is wrong with each"
    )


class _Findings:
    """Findings of a pass over the rows."""

    def __init__(
        self, tokens: SegmentTokenizer, length_counter: LengthCounter, limits: ResultLimits
    ) -> None:
        self._tokens = tokens
        self._length_counter = length_counter
        self._limits = limits
        self.rows = self._duplicates = self._unlabelled = self._nearly_equal = self._count = 0
        self._first: Row | None = None
        self._seen: set[int] = set()
        self._problems: list[str] = []
        self._samples: list[tuple[str, tuple[ExampleView, ...]]] = []

    def problem(self, text: str) -> None:
        self._count += 1
        if len(self._problems) < self._limits.problems:
            self._problems.append(text)

    def add_row(self, place: str, row: Row) -> None:
        """Check a row, unless it equals an earlier one."""
        self._first = self._first or row
        try:
            require_alike(self._first, row)
        except InputError as error:
            self.problem(f"{place}: {error}")
            return
        content = digest(row)
        if content in self._seen:
            self._duplicates += 1
            return
        self._seen.add(content)
        if isinstance(row, EmbeddingExample):
            self._compare_negatives(place, row)
        try:
            prompts = self._length_counter.prompts(row)
        except InputError as error:
            self.problem(f"{place}: {error}")
            return
        if not prompts:
            self._unlabelled += 1
            limit = self._length_counter.data.generative_max_len
            self.problem(
                f"{place}: cut to {limit} tokens, it has no answer left to train; raise "
                "generative_max_len or shorten it"
            )
        elif len(self._samples) < self._limits.samples:
            views = (view(name, prompt, self._tokens) for name, prompt in prompts.items())
            self._samples.append((place, tuple(views)))

    def summary(self, kind: Kind) -> ValidationResult:
        return ValidationResult(
            kind=kind,
            rows=self.rows,
            duplicates=self._duplicates,
            unlabelled=self._unlabelled,
            nearly_equal=self._nearly_equal,
            lengths=self._length_counter.lengths(),
            problem_count=self._count,
            problems=tuple(self._problems),
            samples=tuple(self._samples),
        )

    def _compare_negatives(self, place: str, row: EmbeddingExample) -> None:
        right = {key(text.identity) for text in row.positives}
        for number, text in enumerate(row.negatives, start=1):
            if key(text.identity) in right:
                self._nearly_equal += 1
                shown = shorten(text.text, 60, placeholder=" ...")
                self.problem(
                    f"{place}: negative {number} ({shown!r}) is nearly equal to a positive; remove "
                    "it if it means the same"
                )
