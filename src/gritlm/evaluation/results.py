"""The value that all kinds of tasks come to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

Half = Literal["embedding", "generation", "rag"]


@dataclass(frozen=True)
class TaskResult:
    """One task, measured on one model.

    Attributes:
        task: its name, e.g. ``STSBenchmark-dev``.
        half: which part of the report it belongs to.
        kind: type of the task, e.g. ``STS``, ``Retrieval``, ``multiple_choice``, ``QA``.
        metric: name of the main figure, e.g. ``cosine_spearman``, ``acc``, ``match``.
        score: the main figure in percent, 0 to 100 (perplexities and the like as they are).
        count: rows (or queries) it was measured on.
        seconds: by the clock, loading of data included and of the model not.
        items: the figure of each row, between 0 and 1, of which ``score`` is the mean in percent,
            in the order of the rows; None where it is no mean of rows.
        pairs: for correlations and average precision: (value of the model, gold value) of each
            row; else None.
        details: other figures by name, in percent where they are shares.
        harness: what computed it, with its version, e.g. ``mteb 2.26.24``.
        rows_skipped: bad rows of the task's files that the figure leaves out.
        skip_reasons: why, with ``file:line``, of the first of them.
    """

    task: str
    half: Half
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
        """Return the result with the bad rows that it leaves out."""
        return replace(self, rows_skipped=count, skip_reasons=reasons)
