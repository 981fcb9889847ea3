"""Settings and result of a bulk job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gritlm.errors import InputError
from gritlm.scale.bulk.parts import PartOptions


@dataclass(frozen=True)
class WorkerPool:
    """Workers that embed.

    Attributes:
        least: fewest workers; None for the most.
        most: most workers, which start while there are parts that wait; None for one a device.
        cpus: CPUs, and threads, of a worker on a cluster without GPUs.
    """

    least: int | None = None
    most: int | None = None
    cpus: int = 1

    def __post_init__(self) -> None:
        least = 1 if self.least is None else self.least
        most = least if self.most is None else self.most
        if least < 1 or most < least or self.cpus < 1:
            raise InputError(
                f"{self.least} to {self.most} workers with {self.cpus} CPUs each; expected at "
                "least 1 worker and 1 CPU, and no fewer at most than at least"
            )


@dataclass(frozen=True)
class BulkOptions:
    """Settings of a bulk job.

    Attributes:
        model: arguments of :class:`gritlm.GritLM`: ``model_name_or_path``, ``adapter``, ``dtype``,
            ``device``, ``quantization``, ``attn``, ...
        instruction: the formatted header of queries; empty for documents.
        max_length: maximum tokens of a text; None for that of the model.
        truncate: whether longer texts are cut; if not, they go to the rejected rows.
        parts: size of the parts, and the columns that are read.
        workers: workers that embed.
        progress: whether to show a bar; None shows it on a terminal.
    """

    model: dict[str, Any] = field(default_factory=dict)
    instruction: str = ""
    max_length: int | None = None
    truncate: bool = True
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
