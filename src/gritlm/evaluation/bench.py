"""One model on the bench: measured task by task, loaded when first needed, gone at the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from gritlm import __version__, runtime
from gritlm.errors import GritLMError, MissingExtraError
from gritlm.evaluation import loading, machine, memory
from gritlm.evaluation.cache import Cache, Key
from gritlm.evaluation.finding import Chosen
from gritlm.evaluation.halves import How, Measure
from gritlm.evaluation.results import Half, TaskResult
from gritlm.evaluation.subjects import Subject

log = logging.getLogger(__name__)

_LIBRARY: dict[Half, str] = {"embedding": "mteb", "generation": "lm-eval"}


@dataclass(frozen=True)
class Options:
    """How models are run.

    Attributes:
        limit: rows of each task; None for all.
        device: None for the best there is.
        dtype: number format of the weights; None for the fastest here.
        batch_size: texts embedded at once; None for what the model chooses.
        progress: a bar for each task.
    """

    limit: int | None = None
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None
    progress: bool = False


@dataclass(frozen=True)
class Done:
    """A task after its turn.

    Attributes:
        results: empty when it was skipped.
        reason: why it was skipped; empty otherwise.
        cached: whether it was known before.
    """

    chosen: Chosen
    results: tuple[TaskResult, ...] = ()
    reason: str = ""
    cached: bool = False


class Bench:
    """A model while it is measured; leaving the ``with`` block frees its memory."""

    def __init__(
        self, subject: Subject, *, options: Options, cache: Cache, measures: Mapping[Half, Measure]
    ) -> None:
        self._subject, self._options, self._cache = subject, options, cache
        self._measures = measures
        self._stack, self._model = ExitStack(), None

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._model = None  # before the stack frees what it held
        self._stack.close()

    def measure(self, chosen: Chosen, digest: str) -> Done:
        """One task, from the cache where it is there.

        Args:
            digest: of the task.

        Raises:
            ModelError: when the model cannot be loaded.
            MissingExtraError: without a library that the task needs.
        """
        if why := self._subject.cannot(chosen.half):
            return Done(chosen, reason=why)
        key = self._key(chosen.half, digest)
        if known := self._cache.find(key):
            return Done(chosen, tuple(known), cached=True)
        if why := loading.lacks(self._loaded(), chosen.half):
            return Done(chosen, reason=why)
        try:
            results = self._now(chosen, key.dtype)
        except MissingExtraError:
            raise
        except Exception as error:  # whatever a harness or a hub raises: the other tasks count
            log.debug("%s on %s", chosen.name, self._subject.name, exc_info=error)
            return Done(chosen, reason=_reason(error))
        if not results:
            return Done(chosen, reason="it gave no result")
        self._cache.keep(key, results)
        return Done(chosen, tuple(results))

    def _now(self, chosen: Chosen, dtype: str) -> Sequence[TaskResult]:
        options = self._options
        requests = self._cache.requests(self._subject.digest, dtype)
        how = How(options.limit, options.batch_size, requests, options.progress)
        return self._measures[chosen.half](self._loaded(), chosen.task, how)

    def _loaded(self) -> Any:
        if self._model is None:
            options = self._options
            self._model = self._stack.enter_context(
                loading.loaded(self._subject, device=options.device, dtype=options.dtype)
            )
        return self._model

    def _key(self, half: Half, digest: str) -> Key:
        library = _LIBRARY.get(half)
        versions = [__version__, *([machine.library_version(library)] if library else [])]
        dtype = number_format(self._subject, self._options)
        return Key(self._subject.digest, digest, dtype, self._options.limit, "-".join(versions))


def number_format(subject: Subject, options: Options) -> str:
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
