"""Measuring of embedding tasks with mteb."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from gritlm.errors import InputError, at_least_one
from gritlm.evaluation import harnesses, inputs
from gritlm.evaluation.embedding import instructions, library
from gritlm.evaluation.embedding.encoder import GritLMEncoder
from gritlm.evaluation.embedding.once import EncodeOnce
from gritlm.evaluation.inputs import Inputs
from gritlm.evaluation.results import TaskResult
from gritlm.evaluation.tasks.bad_rows import BadRows
from gritlm.evaluation.tasks.task import Task
from gritlm.lm.gritlm import GritLM

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from sentence_transformers import SentenceTransformer

BATCH = 256  # GritLM bounds a batch further, by its number of tokens
BATCH_ELSE = 32  # default of sentence-transformers


def names() -> dict[str, Inputs]:
    """Return the names of mteb's tasks for :func:`measure`, sorted, with their inputs.

    Raises:
        MissingExtraError: if mteb is not installed.
    """
    harnesses.require("embedding")
    with library.quiet(bars=False):
        from gritlm.evaluation.embedding import hub

        return hub.names()


def default_batch_size(model: Any) -> int:
    """Return the default batch size of a model, in texts."""
    return BATCH if isinstance(model, GritLM) else BATCH_ELSE


def measure(
    model: GritLM | SentenceTransformer,
    task: Task | str,
    *,
    limit: int | None = None,
    batch_size: int | None = None,
    progress: bool = False,
    skip_bad_rows: bool = True,
) -> TaskResult:
    """Measure a model on a task with mteb.

    A local task downloads nothing. mteb's own results are not kept on disk.

    Args:
        model: the model. A sentence-transformers model gets no instructions of ours, only its own
            prompts.
        task: a local task, or the name of a task of mteb.
        limit: number of rows to measure on; for retrieval, number of queries, with all passages.
            None for all.
        batch_size: number of texts in a batch; None for 256 (GritLM, whose token budget bounds it
            further) or 32 (sentence-transformers).
        progress: whether to show mteb's progress bars.
        skip_bad_rows: leave out unusable rows of a local task; the result holds their number and
            the reasons.

    Returns:
        The result, with ``items`` for retrieval, reranking and classification, and with ``pairs``
        for STS and pair classification. It has neither for other types (a clustering row has no
        score) and for tasks of several subsets (their score is the mean over subsets).

    Raises:
        InputError: for an unknown task, a task with images or sound that the model does not read,
            wrong files, or an object that is not a model; if more
            than half of a file's rows are unusable; or for the first unusable row if
            ``skip_bad_rows`` is False.
        DataUnreachableError: if the data of a task of mteb cannot be downloaded.
        ModelError: if the score is not finite.
        MissingExtraError: if mteb is not installed.
    """
    harnesses.require("embedding")
    first = None if limit is None else at_least_one(limit, name="limit")
    size = default_batch_size(model)
    if batch_size is not None:
        size = at_least_one(batch_size, name="batch_size")
    with library.quiet(bars=progress), TemporaryDirectory() as folder:
        from gritlm.evaluation.embedding import items, mteb_results

        started = time.perf_counter()  # the import of mteb does not count
        bad = BadRows(skip=skip_bad_rows)
        ready = _load_task(task, first, bad, model)
        heard = items.listen(ready)
        scores = _evaluate(_encoder(model, task, ready), ready, size, Path(folder), progress)
        found = mteb_results.of(ready, scores, heard, Path(folder), time.perf_counter() - started)
        return found.without_rows(bad.count, bad.reasons)


def _load_task(task: Task | str, limit: int | None, bad: BadRows, model: Any) -> AbsTask:
    from gritlm.evaluation.embedding import hub, local

    if isinstance(task, Task):
        return local.make(task, limit, bad)
    reads = frozenset(model.reads) if isinstance(model, GritLM) else inputs.TEXT
    return hub.load(task, limit, reads=reads)


def _encoder(model: Any, task: Task | str, ready: AbsTask) -> EncodeOnce:
    if isinstance(model, GritLM):
        sides = instructions.of_local(task, ready.metadata) if isinstance(task, Task) else None
        return EncodeOnce(GritLMEncoder(model, sides))
    transformer = sys.modules.get("sentence_transformers")  # else it cannot be one of its models
    if transformer is None or not isinstance(model, transformer.SentenceTransformer):
        raise InputError(
            f"model is {type(model).__name__}; expected a GritLM or a SentenceTransformer"
        )
    from mteb.models import SentenceTransformerEncoderWrapper

    return EncodeOnce(SentenceTransformerEncoderWrapper(model))


def _evaluate(
    encoder: EncodeOnce, task: AbsTask, batch_size: int, folder: Path, progress: bool
) -> dict[str, Any]:
    """Return mteb's scores, by split."""
    import mteb

    from gritlm.evaluation.embedding import items

    result = mteb.evaluate(
        encoder,
        task,
        co2_tracker=False,
        cache=None,
        encode_kwargs={"batch_size": batch_size, "show_progress_bar": progress},
        prediction_folder=folder if items.keeps_predictions(task) else None,
        show_progress_bar=progress,
    )
    return dict(result.task_results[0].scores)
