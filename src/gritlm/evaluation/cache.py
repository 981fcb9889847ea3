"""Cache of results on disk, with one file for each model and task, written atomically."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gritlm import atomic, runtime
from gritlm.evaluation.results import TaskResult

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheKey:
    """Everything that a result depends on.

    Attributes:
        weights: digest of the model (weights, settings, tokenizer, adapter).
        task: digest of the task.
        dtype: requested number format of the weights, e.g. ``bfloat16``.
        limit: number of rows measured; None for all.
        device: type of the device: ``cpu``, ``cuda``, ...
        versions: versions of gritlm, of the evaluation harness and of the libraries that run the
            model.
        skip_bad: whether unusable rows are left out.
    """

    weights: str
    task: str
    dtype: str
    limit: int | None
    device: str
    versions: str
    skip_bad: bool = True

    def file(self) -> str:
        """Return the path of the result, relative to the cache folder."""
        # Versions such as 1.2+cpu are kept as they are, readable in a listing of the folder.
        rows = "all" if self.limit is None else self.limit
        strict = "" if self.skip_bad else "-strict"
        return f"{self.weights}/{self.task}-{rows}{strict}-{self.machinery}.json"

    @property
    def machinery(self) -> str:
        """Number format, device and versions: the part of the key that no task changes."""
        return f"{self.dtype}-{self.device}-{self.versions}"


@dataclass(frozen=True)
class ResultCache:
    """A folder of results from earlier runs.

    ``ResultCache(None)`` disables the cache: nothing is found and nothing is kept.

    Attributes:
        folder: folder of the files, created when needed; None disables the cache.
    """

    folder: Path | None

    def find(self, key: CacheKey) -> list[TaskResult] | None:
        """Return the results stored under a key.

        Returns:
            The results; None if the file is missing or unreadable. An unreadable file is logged
            as a warning.
        """
        if self.folder is None:
            return None
        path = self.folder / key.file()
        try:
            records = json.loads(path.read_text(encoding="utf-8"))["results"]
            return [read(record) for record in records]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s cannot be read (%s); the task is measured again", path, error)
            return None

    def keep(self, key: CacheKey, results: Sequence[TaskResult]) -> None:
        """Store results under a key; the file is replaced atomically.

        Args:
            key: key of the results.
            results: results to store.

        Raises:
            OSError: if the file cannot be written.
        """
        if self.folder is None:
            return
        record = {"key": asdict(key), "results": [asdict(result) for result in results]}
        with atomic.replacing(self.folder / key.file()) as unfinished:
            unfinished.write_text(json.dumps(record), encoding="utf-8")

    def requests(self, key: CacheKey) -> Path | None:
        """Return the file in which a harness may keep the answers to single requests.

        Args:
            key: key of the model and the task; the file serves all tasks of the model.

        Returns:
            Path of an SQLite file; None if the cache is disabled.
        """
        name = f"requests-{key.machinery}.sqlite"
        return None if self.folder is None else self.folder / key.weights / name


def default_folder() -> Path:
    """Return the default folder of the cache, below gritlm's cache folder."""
    return runtime.cache_dir() / "evaluations"


def read(record: dict[str, Any]) -> TaskResult:
    """Build a result from its JSON object.

    Raises:
        TypeError, ValueError: if the object is not a result of this version.
    """
    known = {field.name for field in fields(TaskResult)}
    if not isinstance(record, dict) or record.keys() != known:
        raise ValueError("it does not hold the result of a task")
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
