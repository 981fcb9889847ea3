"""The pipeline of bulk embedding on Ray Data: read and tokenise, embed, write."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gritlm.errors import ModelError
from gritlm.scale import cluster
from gritlm.scale.bulk.attempts import start_attempts
from gritlm.scale.bulk.bulk_options import BulkOptions
from gritlm.scale.bulk.parts import InputFile, Part
from gritlm.scale.bulk.staging import Staging
from gritlm.scale.bulk.tokenising import TokenisingWorker
from gritlm.scale.bulk.vector_worker import EmbeddedPart, VectorWorker, WorkerOptions
from gritlm.scale.worker_pool import WorkerPool, worker_resources

_HELPER_SHARE = 0.05
_WRITERS = 2  # fewest processes that may write


class StagingWriter:
    """The function of Ray Data that writes parts into the staging folder.

    Args:
        staging: the folders of the job.
    """

    def __init__(self, staging: Staging) -> None:
        self._staging = staging

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write a batch of parts, and return their counts."""
        parts: list[EmbeddedPart] = [pickle.loads(content) for content in batch["content"]]
        for part in parts:
            if not self._staging.is_done(part.number):  # Ray may call this again for a part
                self._staging.write(part)
        return {
            "part": [part.number for part in parts],
            "rows": [len(part.ids) for part in parts],
            "rejected": [len(part.rejected) for part in parts],
            "cut": [part.cut for part in parts],
            "tokens": [part.tokens for part in parts],
            "fingerprint": [part.fingerprint for part in parts],
        }


@dataclass(frozen=True)
class EmbeddingPipeline:
    """The pipeline of a job on Ray Data: read and tokenise, embed, write.

    A row of the pipeline is a part.
    """

    staging: Staging
    files: list[InputFile]
    parts: list[Part]
    options: BulkOptions
    tokeniser: dict[str, Any]

    def rows(self, done: set[int]) -> Iterator[dict[str, Any]]:
        """Yield the counts of the parts that this run writes.

        Args:
            done: parts that are done.
        """
        todo = [part.number for part in self.parts if part.number not in done]
        if not todo:
            return
        expected = self.staging.fingerprint(done)
        with _quiet_ray(), _bar(len(self.parts), len(done), self.options.progress) as bar:
            try:
                for row in self._dataset(todo, expected).iter_rows():
                    expected = expected or str(row["fingerprint"])
                    if row["fingerprint"] != expected:
                        raise ModelError(
                            "the workers have different weights; pass a model that is the same on "
                            "every machine, and delete the staging folder"
                        )
                    bar.update(1)
                    bar.set_postfix_str(f"part {int(row['part'])}")
                    yield row
            except Exception as error:
                raise cluster.explain(error, "bulk embedding") from None

    def _dataset(self, todo: list[int], fingerprint: str | None) -> Any:
        import ray
        from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

        DataContext.get_current().enable_progress_bars = False
        workers = self.options.workers
        pool, device = _pool(workers, self.options.model.get("device"), len(todo))
        on_gpu = "num_gpus" in device
        helper: dict[str, Any] = {"num_cpus": 1.0 if on_gpu else _HELPER_SHARE * workers.cpus}
        threads = None if on_gpu else workers.cpus
        parts = [
            {"part": n, "content": pickle.dumps((self.parts[n], self.files[self.parts[n].file]))}
            for n in todo
        ]
        data = ray.data.from_items(parts, override_num_blocks=len(parts))
        tokenised = data.map_batches(
            TokenisingWorker,
            fn_constructor_args=(self.options.parts, self.tokeniser),
            batch_size=1,
            compute=ActorPoolStrategy(min_size=1, max_size=max(1, pool.max_size)),
            **helper,
        )
        embedded = tokenised.map_batches(
            VectorWorker,
            fn_constructor_args=(
                WorkerOptions(self.options.model, threads, fingerprint, self.options.vectors),
                [start_attempts()],
                self.staging.is_done,
            ),
            batch_size=1,
            compute=pool,
            **device,
        )
        return embedded.map_batches(
            StagingWriter(self.staging).__call__,
            batch_size=1,
            compute=TaskPoolStrategy(size=min(len(todo), max(_WRITERS, pool.max_size))),
            **helper,
        )


def _pool(workers: WorkerPool, device: str | None, parts: int) -> tuple[Any, dict[str, Any]]:
    """Return the pool of the workers that embed, and the resources of each."""
    from ray.data import ActorPoolStrategy

    resources, most = worker_resources(workers, device=device)
    most = min(most, max(1, parts))
    return ActorPoolStrategy(min_size=min(workers.least or most, most), max_size=most), resources


@contextmanager
def _quiet_ray() -> Iterator[None]:
    """Keep the log lines of Ray Data out of the terminal; its log files have them."""
    import ray.data  # sets up its handlers

    logger = logging.getLogger(ray.data.__name__)
    shown = [each for each in logger.handlers if type(each).__name__ == "PlainRayHandler"]
    levels = [each.level for each in shown]
    for each in shown:
        each.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for each, level in zip(shown, levels, strict=True):
            each.setLevel(level)


def _bar(total: int, done: int, show: bool | None) -> Any:
    from tqdm import tqdm

    hidden = not sys.stderr.isatty() if show is None else not show
    return tqdm(total=total, initial=done, unit="part", disable=hidden, leave=False)
