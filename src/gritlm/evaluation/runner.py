"""One model on the bench: measured task by task, loaded when first needed, gone at the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite
from types import TracebackType

from gritlm import __version__, runtime
from gritlm.errors import GritLMError, MissingExtraError
from gritlm.evaluation import environment, harnesses, loading, memory
from gritlm.evaluation.cache import CacheKey, ResultCache
from gritlm.evaluation.kinds import BatchLimits, Measure, MeasureOptions
from gritlm.evaluation.loading import ReadyModel
from gritlm.evaluation.models import EvaluatedModel
from gritlm.evaluation.results import Half, TaskResult
from gritlm.evaluation.tasks.bad_rows import BadRowError
from gritlm.evaluation.tasks.discovery import ChosenTask

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunnerOptions:
    """How models are run.

    Attributes:
        limit: rows of each task; None for all.
        device: None for the best there is.
        dtype: number format of the weights; None for the fastest here.
        batch_size: texts embedded at once; None for what the model chooses.
        progress: a bar for each task.
        skip_bad: leave out rows of local tasks that cannot be used; else the first one ends the
            run.
    """

    limit: int | None = None
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None
    progress: bool = False
    skip_bad: bool = True


@dataclass(frozen=True)
class MeasuredTask:
    """A task after its turn.

    Attributes:
        results: empty when it was skipped.
        reason: why it was skipped; empty otherwise.
        cached: whether it was known before.
    """

    chosen: ChosenTask
    results: tuple[TaskResult, ...] = ()
    reason: str = ""
    cached: bool = False


class TaskRunner:
    """A model while it is measured; leaving the ``with`` block frees its memory."""

    def __init__(
        self,
        subject: EvaluatedModel,
        *,
        options: RunnerOptions,
        cache: ResultCache,
        measures: Mapping[Half, Measure],
    ) -> None:
        self._subject = subject
        self._options = options
        self._cache = cache
        self._measures = measures
        self._batch = BatchLimits(options.batch_size)
        self._stack = ExitStack()
        self._ready: ReadyModel | None = None

    def __enter__(self) -> TaskRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ready = None  # before the stack frees what it held
        self._stack.close()

    def measure(self, chosen: ChosenTask, digest: str) -> MeasuredTask:
        """One task, from the cache where it is there.

        Args:
            digest: of the task.

        Raises:
            ModelError: when the model cannot be loaded.
            MissingExtraError: without a library that the task needs.
            BadRowError: for a row that cannot be used, when none may be left out.
        """
        if why := self._subject.cannot(chosen.half):
            return MeasuredTask(chosen, reason=why)
        key = self._key(chosen.half, digest)
        if known := self._cache.find(key):
            return MeasuredTask(chosen, tuple(known), cached=True)
        if why := self._loaded().lacks(chosen.half):
            return MeasuredTask(chosen, reason=why)
        try:
            results = self._now(chosen, key)
        except (MissingExtraError, BadRowError):
            raise
        except Exception as error:  # whatever a harness or a hub raises: the other tasks count
            log.debug("%s on %s", chosen.name, self._subject.name, exc_info=error)
            return MeasuredTask(chosen, reason=_reason(error))
        if not results:
            return MeasuredTask(chosen, reason="it gave no result")
        for result in results:
            if not isfinite(result.score):
                return MeasuredTask(
                    chosen, reason=f"its {result.metric} is no number ({result.score})"
                )
        self._cache.keep(key, results)
        return MeasuredTask(chosen, tuple(results))

    def _now(self, chosen: ChosenTask, key: CacheKey) -> Sequence[TaskResult]:
        options = self._options
        how = MeasureOptions(
            options.limit,
            self._batch,
            self._cache.requests(key),
            options.progress,
            options.skip_bad,
        )
        return self._measures[chosen.half](self._loaded().model, chosen.task, how)

    def _loaded(self) -> ReadyModel:
        if self._ready is None:
            options = self._options
            self._ready = self._stack.enter_context(
                loading.loaded(self._subject, device=options.device, dtype=options.dtype)
            )
        return self._ready

    def _key(self, half: Half, digest: str) -> CacheKey:
        subject = self._subject
        options = self._options
        runs = "transformers" if subject.kind == "GritLM" else subject.kind
        libraries = [harnesses.NAMES.get(half), runs, "torch"]
        versions = [__version__, *(environment.library_version(name) for name in libraries if name)]
        return CacheKey(
            subject.digest,
            digest,
            number_format(subject, options),
            options.limit,
            runtime.choose_device(options.device).type,
            "-".join(versions),
            options.skip_bad,
        )


def number_format(subject: EvaluatedModel, options: RunnerOptions) -> str:
    """The number format a model is measured in, known without loading it."""
    if options.dtype is not None:
        return options.dtype
    if subject.kind == "sentence-transformers":
        return "auto"
    chosen = runtime.choose_dtype(runtime.choose_device(options.device))
    return str(chosen.dtype).removeprefix("torch.")


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())[:400]
    if memory.is_out_of_memory(error):
        return f"out of memory, with the smallest batch ({said})"
    return said if isinstance(error, GritLMError) else f"{type(error).__name__}: {said}"
