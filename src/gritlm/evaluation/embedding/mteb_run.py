"""One task of mteb on one model."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from gritlm.errors import InputError
from gritlm.evaluation import harnesses
from gritlm.evaluation.embedding import instructions, library
from gritlm.evaluation.embedding.encoder import GritLMEncoder
from gritlm.evaluation.embedding.once import EncodeOnce
from gritlm.evaluation.results import TaskResult
from gritlm.evaluation.tasks.bad_rows import BadRows
from gritlm.evaluation.tasks.task import Task
from gritlm.lm.gritlm import GritLM
from gritlm.lm.inputs import at_least_one

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from sentence_transformers import SentenceTransformer

BATCH = 256
BATCH_ELSE = 32  # GritLM bounds it further, by tokens; that of sentence-transformers


def names() -> list[str]:
    """The tasks of text that mteb knows, by which :func:`measure` takes them, sorted.

    Raises:
        MissingExtraError: when mteb is not installed.
    """
    harnesses.require("embedding")
    with library.quiet(bars=False):
        from gritlm.evaluation.embedding import hub

        return hub.names()


def default_batch_size(model: Any) -> int:
    """Texts that a model reads at once when nobody says how many."""
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
    """Let mteb measure a model on a task.

    Nothing is downloaded for a local task, and nothing is kept on disk.

    Args:
        model: of sentence-transformers it gets no instructions, but the prompts it comes with.
        task: a local one, or a name of mteb's.
        limit: the first so many rows; of retrieval queries, with all passages.
        batch_size: texts read at once; None for 256 (GritLM, whose token budget bounds it
            further) or 32.
        progress: show mteb's bars.
        skip_bad_rows: leave out rows of a local task that cannot be used; the result counts and
            names them.

    Returns:
        With ``items`` for retrieval, reranking and classification, ``pairs`` for STS and pair
        classification, and neither for the rest (clustering has no figure of a row) and for tasks
        of several subsets (their score is the mean over subsets, not over rows).

    Raises:
        InputError: for a task that is not known or whose files are wrong, or a model that is none;
            when more than half of a file's rows are bad, or any is and none is skipped.
        DataUnreachableError: when the data of one of mteb's tasks cannot be fetched.
        ModelError: when the score is no number.
        MissingExtraError: when mteb is not installed.
    """
    harnesses.require("embedding")
    first = None if limit is None else at_least_one(limit, name="limit")
    size = default_batch_size(model)
    if batch_size is not None:
        size = at_least_one(batch_size, name="batch_size")
    with library.quiet(bars=progress), TemporaryDirectory() as folder:
        from gritlm.evaluation.embedding import items, mteb_results

        started = time.perf_counter()  # the first import of mteb is no time of the task's
        bad = BadRows(skip=skip_bad_rows)
        ready = _ready(task, first, bad)
        heard = items.listen(ready)
        scores = _evaluate(_encoder(model, task, ready), ready, size, Path(folder), progress)
        found = mteb_results.of(ready, scores, heard, Path(folder), time.perf_counter() - started)
        return found.without_rows(bad.count, bad.reasons)


def _ready(task: Task | str, limit: int | None, bad: BadRows) -> AbsTask:
    from gritlm.evaluation.embedding import hub, local

    return local.make(task, limit, bad) if isinstance(task, Task) else hub.load(task, limit)


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
    """mteb's figures, by split."""
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
