"""Training rows looked through before a run: all their problems, not only the first."""

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
FIRST = 100  # rows that are looked at to tell the kind


@dataclass(frozen=True)
class ValidationResult:
    """What a file holds.

    Attributes:
        rows: all of them, those that cannot be used too.
        duplicates: rows that an earlier one equals; training leaves them out.
        unlabelled: rows of which nothing is left to train at the lengths given; training skips
            them.
        nearly_equal: negatives that are nearly equal to a positive of their row; training does not
            count them as negatives.
        problem_count: of all problems, the two above included; ``problems`` has the first ones,
            each with its place.
        samples: (place, what training reads of it) of the first rows that can be used.
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
        """Rows that training stops at."""
        return self.problem_count - self.unlabelled - self.nearly_equal


def check_rows(
    source: SourceConfig,
    tokens: SegmentTokenizer,
    settings: ModelSettings,
    data: DataConfig,
    *,
    kind: Kind | None = None,
    samples: int = 1,
    keep: int = 50,
    progress: bool | None = None,
) -> ValidationResult:
    """Read all rows of a source, one at a time.

    Args:
        settings: of the model, see :func:`gritlm.lm.hub.load.load_tokenizer`.
        data: its lengths are those that rows are cut to.
        kind: of the rows; None tells it from the first one.
        samples: rows that are shown in pieces.
        keep: problems that are kept.
        progress: show a bar; None: on a terminal.

    Raises:
        InputError: for a source that cannot be opened or whose kind is none of ours.
    """
    parts = list(readers.find(source))
    kind = kind or _kind(parts, source)
    found = _Notes(tokens, LengthCounter(tokens, settings, data), keep=keep, show=samples)
    hidden = None if progress is None else not progress
    for part, index in tqdm(_places(parts, source.cap), unit="row", disable=hidden, leave=False):
        found.rows += 1
        place = part.place(index)
        try:
            row = parse(part.record(index), kind, place=place, source=source)
        except InputError as error:  # it names the place
            found.problem(str(error))
        else:
            found.take(place, row)
    return found.summary(kind)


def _places(parts: Sequence[RecordReader], most: int | None) -> Iterator[tuple[RecordReader, int]]:
    every = ((part, index) for part in parts for index in range(len(part)))
    return islice(every, most)


def _kind(parts: Sequence[RecordReader], source: SourceConfig) -> Kind:
    """The kind of the first row that is of one."""
    for part, index in _places(parts, FIRST):
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


class _Notes:
    """What is seen on the way through the rows."""

    def __init__(
        self, tokens: SegmentTokenizer, ruler: LengthCounter, *, keep: int, show: int
    ) -> None:
        self._tokens = tokens
        self._ruler = ruler
        self._keep = keep
        self._show = show
        self.rows = self._duplicates = self._unlabelled = self._nearly_equal = self._count = 0
        self._first: Row | None = None
        self._seen: set[int] = set()
        self._problems: list[str] = []
        self._samples: list[tuple[str, tuple[ExampleView, ...]]] = []

    def problem(self, text: str) -> None:
        self._count += 1
        if len(self._problems) < self._keep:
            self._problems.append(text)

    def take(self, place: str, row: Row) -> None:
        """Look at a row, unless an earlier one equals it."""
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
            self._compare(place, row)
        try:
            prompts = self._ruler.prompts(row)
        except InputError as error:
            self.problem(f"{place}: {error}")
            return
        if not prompts:
            self._unlabelled += 1
            limit = self._ruler.data.generative_max_len
            self.problem(
                f"{place}: cut to {limit} tokens, it has no answer left to train; raise "
                "generative_max_len or shorten it"
            )
        elif len(self._samples) < self._show:
            views = (view(name, prompt, self._tokens) for name, prompt in prompts.items())
            self._samples.append((place, tuple(views)))

    def summary(self, kind: Kind) -> ValidationResult:
        return ValidationResult(
            kind=kind,
            rows=self.rows,
            duplicates=self._duplicates,
            unlabelled=self._unlabelled,
            nearly_equal=self._nearly_equal,
            lengths=self._ruler.lengths(),
            problem_count=self._count,
            problems=tuple(self._problems),
            samples=tuple(self._samples),
        )

    def _compare(self, place: str, row: EmbeddingExample) -> None:
        right = {key(text.text) for text in row.positives}
        for number, text in enumerate(row.negatives, start=1):
            if key(text.text) in right:
                self._nearly_equal += 1
                said = shorten(text.text, 60, placeholder=" ...")
                self.problem(
                    f"{place}: negative {number} ({said!r}) is nearly equal to a positive; remove "
                    "it if it says the same"
                )
