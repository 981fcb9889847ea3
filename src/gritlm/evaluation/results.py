"""Result of a task on a model, the same class for all kinds of tasks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

Kind = Literal["embedding", "generation", "rag", "senses"]


@dataclass(frozen=True)
class TaskResult:
    """Result of one task on one model.

    The names of the fields are keys of ``report.json`` and of cached results.

    Attributes:
        task: name of the task, e.g. ``STSBenchmark-dev``.
        half: kind of the task: ``embedding``, ``generation``, ``rag`` or ``senses``.
        kind: type of the task, e.g. ``STS``, ``Retrieval``, ``multiple_choice``, ``QA``.
        metric: name of the main metric, e.g. ``cosine_spearman``, ``acc``, ``match``.
        score: main score in percent, 0 to 100 (perplexities and the like unscaled).
        count: number of rows (or queries) measured.
        seconds: wall-clock seconds, with loading of the data and without loading of the model.
        items: score of each row between 0 and 1, in the order of the rows; ``score`` is their
            mean in percent. None if the score is not a mean over rows.
        pairs: (predicted value, gold value) of each row, for correlations and average precision;
            else None.
        details: other scores by name, in percent where they are shares.
        harness: name and version of the harness, e.g. ``mteb 2.26.24``.
        rows_skipped: number of unusable rows that the score leaves out.
        skip_reasons: reasons for the first of these rows, with ``file:line``.
    """

    task: str
    half: Kind
    kind: str
    metric: str
    score: float
    count: int
    seconds: float
    items: tuple[float, ...] | None = None
    pairs: tuple[tuple[float, float], ...] | None = None
    details: dict[str, float] = field(default_factory=dict)
    harness: str = ""
    rows_skipped: int = 0
    skip_reasons: tuple[str, ...] = ()

    def without_rows(self, count: int, reasons: tuple[str, ...]) -> TaskResult:
        """Return a copy with the number of unusable rows that were left out, and the reasons."""
        return replace(self, rows_skipped=count, skip_reasons=reasons)
