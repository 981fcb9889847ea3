"""Runner of tasks on one model, which loads the model when first needed and frees it at the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import isfinite
from types import TracebackType

from gritlm import __version__, runtime
from gritlm.errors import GritLMError, MissingExtraError, one_line
from gritlm.evaluation import environment, harnesses, loading, memory
from gritlm.evaluation.cache import CacheKey, ResultCache
from gritlm.evaluation.kinds import BatchLimits, Measure, MeasureOptions
from gritlm.evaluation.loading import ReadyModel
from gritlm.evaluation.models import EvaluatedModel
from gritlm.evaluation.results import Kind, TaskResult
from gritlm.evaluation.tasks.bad_rows import BadRowError
from gritlm.evaluation.tasks.discovery import ChosenTask

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunnerOptions:
    """Options for running models.

    Attributes:
        limit: number of rows measured in each task; None for all. :func:`evaluate` takes the
            limit of the plan instead.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; None for the best one available.
        dtype: number format of the weights, e.g. ``bfloat16``, or ``auto`` for that of the
            checkpoint; None for the fastest on this machine.
        quantization: format of quantised weights, e.g. ``int8``; None for none.
        batch_size: number of texts to embed in a batch; None for the model's default.
        progress: whether to show a progress bar for each task.
        skip_bad: whether to leave out unusable rows of local tasks; if False, the first one
            raises.
    """

    limit: int | None = None
    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    batch_size: int | None = None
    progress: bool = False
    skip_bad: bool = True


@dataclass(frozen=True)
class MeasuredTask:
    """A task that was measured or skipped.

    Attributes:
        chosen: the task.
        results: results of the task; empty if it was skipped.
        reason: why the task was skipped; empty if it was not.
        cached: whether the results come from the cache.
    """

    chosen: ChosenTask
    results: tuple[TaskResult, ...] = ()
    reason: str = ""
    cached: bool = False


class TaskRunner:
    """Runner of tasks on one model; leaving the ``with`` block frees the model's memory.

    Args:
        evaluated: the model; it is loaded for the first task that is not in the cache.
        options: options for running the model.
        cache: results of earlier runs.
        measures: function that measures each kind of task.
    """

    def __init__(
        self,
        evaluated: EvaluatedModel,
        *,
        options: RunnerOptions,
        cache: ResultCache,
        measures: Mapping[Kind, Measure],
    ) -> None:
        self._evaluated = evaluated
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
        self._ready = None  # the stack frees memory, which this reference would keep
        self._stack.close()

    def measure(self, chosen: ChosenTask, digest: str) -> MeasuredTask:
        """Measure a task, or take its results from the cache.

        Args:
            chosen: the task.
            digest: digest of the task.

        Raises:
            ModelError: if the model cannot be loaded.
            MissingExtraError: if a library that the task needs is not installed.
            BadRowError: for the first unusable row, with ``skip_bad=False``.
        """
        if why := self._evaluated.cannot(chosen.kind, chosen.needs):
            return MeasuredTask(chosen, reason=why)
        key = self.key(chosen.kind, digest)
        if known := self._cache.find(key):
            return MeasuredTask(chosen, tuple(known), cached=True)
        if why := self._load().lacks(chosen.kind):
            return MeasuredTask(chosen, reason=why)
        try:
            results = self._run(chosen, key)
        except (MissingExtraError, BadRowError):
            raise
        except Exception as error:  # a harness or a hub may raise anything; other tasks go on
            log.debug("%s on %s", chosen.name, self._evaluated.name, exc_info=error)
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

    def _run(self, chosen: ChosenTask, key: CacheKey) -> Sequence[TaskResult]:
        options = self._options
        measure_options = MeasureOptions(
            options.limit,
            self._batch,
            self._cache.requests(key),
            options.progress,
            options.skip_bad,
        )
        return self._measures[chosen.kind](self._load().model, chosen.task, measure_options)

    def _load(self) -> ReadyModel:
        if self._ready is None:
            options = self._options
            self._ready = self._stack.enter_context(
                loading.loaded(
                    self._evaluated,
                    device=options.device,
                    dtype=options.dtype,
                    quantization=options.quantization,
                )
            )
        return self._ready

    def key(self, kind: Kind, digest: str) -> CacheKey:
        """Return the key of a result, without loading the model.

        Args:
            kind: kind of the task.
            digest: digest of the task.
        """
        evaluated = self._evaluated
        options = self._options
        library = "transformers" if evaluated.kind == "GritLM" else evaluated.kind
        libraries = [harnesses.NAMES.get(kind), library, "torch"]
        versions = [__version__, *(environment.library_version(name) for name in libraries if name)]
        return CacheKey(
            evaluated.digest,
            digest,
            number_format(evaluated, options),
            options.limit,
            runtime.choose_device(options.device).type,
            "-".join(versions),
            options.skip_bad,
        )


def number_format(evaluated: EvaluatedModel, options: RunnerOptions) -> str:
    """Return the number format in which a model is measured, without loading the model."""
    dtype = _dtype(evaluated, options)
    return dtype if options.quantization is None else f"{dtype}-{options.quantization}"


def _dtype(evaluated: EvaluatedModel, options: RunnerOptions) -> str:
    if options.dtype is not None:
        return options.dtype
    if evaluated.kind == "sentence-transformers":
        return "auto"
    chosen = runtime.choose_dtype(runtime.choose_device(options.device))
    return str(chosen.dtype).removeprefix("torch.")


def _reason(error: Exception) -> str:
    message = one_line(error, limit=400)
    if memory.is_out_of_memory(error):
        return f"out of memory, with the smallest batch ({message})"
    return message if isinstance(error, GritLMError) else f"{type(error).__name__}: {message}"
