"""What was measured before: one file a model and task, written whole or not at all."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gritlm import runtime
from gritlm.evaluation.results import TaskResult

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheKey:
    """What a result depends on.

    Attributes:
        weights, task: digests.
        dtype: number format of the weights, as asked for.
        device: kind of device: ``cpu``, ``cuda``, ...
        versions: of gritlm, of the harness that measures and of the libraries that run the model.
        skip_bad: whether rows that cannot be used are left out.
    """

    weights: str
    task: str
    dtype: str
    limit: int | None
    device: str
    versions: str
    skip_bad: bool = True

    def file(self) -> str:
        # versions of 1.2+cpu and the like stay readable in a listing of the folder
        rows = "all" if self.limit is None else self.limit
        strict = "" if self.skip_bad else "-strict"
        return f"{self.weights}/{self.task}-{rows}{strict}-{self.machinery}.json"

    @property
    def machinery(self) -> str:
        """What a model runs on, whatever the task."""
        return f"{self.dtype}-{self.device}-{self.versions}"


@dataclass(frozen=True)
class ResultCache:
    """A folder of results.

    Attributes:
        folder: None keeps nothing and finds nothing.
    """

    folder: Path | None

    def find(self, key: CacheKey) -> list[TaskResult] | None:
        """The results under a key; None when there are none, or they cannot be read."""
        if self.folder is None:
            return None
        path = self.folder / key.file()
        try:
            records = json.loads(path.read_text(encoding="utf-8"))["results"]
            return [read(record) for record in records]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s cannot be read (%s); it is measured again", path, error)
            return None

    def keep(self, key: CacheKey, results: Sequence[TaskResult]) -> None:
        """Write the results under a key."""
        if self.folder is None:
            return
        record = {"key": asdict(key), "results": [asdict(result) for result in results]}
        with runtime.replacing(self.folder / key.file()) as unfinished:
            unfinished.write_text(json.dumps(record), encoding="utf-8")

    def requests(self, key: CacheKey) -> Path | None:
        """File in which a harness may keep the answers of one model to single requests."""
        name = f"requests-{key.machinery}.sqlite"
        return None if self.folder is None else self.folder / key.weights / name


def default_folder() -> Path:
    """Where results are kept when nobody says otherwise."""
    return runtime.cache_dir() / "evaluations"


def read(record: dict[str, Any]) -> TaskResult:
    """A result as JSON holds it.

    Raises:
        TypeError, ValueError: when it is none.
    """
    known = {field.name for field in fields(TaskResult)}
    if not isinstance(record, dict) or record.keys() != known:
        raise ValueError("it holds no result of a task")
    items = record["items"]
    pairs = record["pairs"]
    return TaskResult(
        **{
            **record,
            "score": float(record["score"]),
            "rows_skipped": int(record["rows_skipped"]),
            "skip_reasons": tuple(map(str, record["skip_reasons"])),
            "items": None if items is None else tuple(map(float, items)),
            "pairs": None
            if pairs is None
            else tuple((float(one), float(gold)) for one, gold in pairs),
        }
    )
