"""Settings and result of a bulk job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gritlm.errors import at_least_one, choice
from gritlm.lm.vectors import PRECISIONS
from gritlm.scale.bulk.parts import PartOptions
from gritlm.scale.worker_pool import WorkerPool


@dataclass(frozen=True)
class VectorForm:
    """Dimensions and data type of the vectors, as in :meth:`gritlm.GritLM.encode`.

    Attributes:
        truncate_dim: dimensions to keep; None for all.
        precision: ``float32``, ``int8``, ``uint8``, ``binary`` or ``ubinary``.
    """

    truncate_dim: int | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        choice(self.precision, PRECISIONS, name="precision")
        if self.truncate_dim is not None:
            at_least_one(self.truncate_dim, name="truncate_dim")

    @property
    def is_scaled(self) -> bool:
        """Whether a value depends on the extremes of its dimension over all vectors."""
        return self.precision in ("int8", "uint8")


@dataclass(frozen=True)
class BulkOptions:
    """Settings of a bulk job.

    Attributes:
        model: arguments of :class:`gritlm.GritLM`: ``model_name_or_path``, ``adapter``, ``dtype``,
            ``device``, ``quantization``, ``attn``, ...
        instruction: the formatted header of queries; empty for documents.
        max_length: maximum tokens of a text; None for that of the model.
        truncate: whether longer texts are cut; if not, they go to the rejected rows.
        vectors: dimensions and data type of the vectors.
        parts: size of the parts, and the columns that are read.
        workers: workers that embed.
        progress: whether to show a bar; None shows it on a terminal.
    """

    model: dict[str, Any] = field(default_factory=dict)
    instruction: str = ""
    max_length: int | None = None
    truncate: bool = True
    vectors: VectorForm = field(default_factory=VectorForm)
    parts: PartOptions = field(default_factory=PartOptions)
    workers: WorkerPool = field(default_factory=WorkerPool)
    progress: bool | None = None


@dataclass(frozen=True)
class EmbedReport:
    """Result of a bulk job.

    Attributes:
        output: folder of the vectors.
        rows: rows with a vector.
        rejected: rows without one, which are in ``_rejected`` of the output.
        cut: rows that this run truncated.
        parts: parts of the job.
        resumed: parts that earlier runs had embedded.
        tokens: tokens that this run read.
        seconds: duration of this run.
    """

    output: str
    rows: int
    rejected: int
    cut: int
    parts: int
    resumed: int
    tokens: int
    seconds: float
