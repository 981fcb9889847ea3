"""Search between images or sounds and their texts, in both directions.

Shapes: N queries, M candidates, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gritlm.errors import ModelError
from gritlm.evaluation import bootstrap
from gritlm.evaluation.results import TaskResult
from gritlm.evaluation.senses.media_rows import MediaRow
from gritlm.evaluation.tasks.task import Task
from gritlm.lm.gritlm import GritLM
from gritlm.prompts import gritlm_instruction

DEPTH = 10  # candidates of the second metric
# Type of task -> names of its two directions.
DIRECTIONS = {
    "ImageText": ("picture to name", "name to picture"),
    "AudioText": ("speech to sentence", "sentence to speech"),
}


def measure_search(
    model: GritLM, task: Task, rows: Sequence[MediaRow], *, batch_size: int, progress: bool
) -> list[TaskResult]:
    """Return the results of both directions; each input is embedded once.

    Rows with the same text share it: any of them is right for it.

    Args:
        model: model that embeds.
        task: a local task of type ImageText or AudioText.
        rows: its rows.
        batch_size: number of inputs in a batch.
        progress: whether to show a progress bar.

    Raises:
        ModelError: for vectors that are not finite.
        ModeError: for a model loaded with ``mode="generative"``.
    """
    texts = list(dict.fromkeys(row.text for row in rows))
    media_ND, texts_MD = (
        model.encode(
            each,
            instruction=gritlm_instruction(instruction),
            batch_size=batch_size,
            show_progress_bar=progress,
        )
        for each, instruction in (
            ([dict(row.media) for row in rows], task.instruction),
            (texts, task.passage_instruction),
        )
    )
    similarity_NM = model.similarity(media_ND, texts_MD).double().cpu().numpy()
    if not np.isfinite(similarity_NM).all():
        raise ModelError(f"{task.name}: some vectors are not finite")
    right_NM = np.array([[row.text == text for text in texts] for row in rows])
    there, back = DIRECTIONS[task.type]
    return [
        _result(f"{task.name} ({there})", there, best_ranks(similarity_NM, right_NM), len(texts)),
        _result(f"{task.name} ({back})", back, best_ranks(similarity_NM.T, right_NM.T), len(rows)),
    ]


def best_ranks(similarity_NM: NDArray[Any], right_NM: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the rank of the best right candidate of each query, from 1: (N,).

    Wrong candidates of the same similarity rank before it, so that a model whose vectors are all
    the same gets no credit.

    Args:
        similarity_NM: similarity of each query and candidate.
        right_NM: whether the candidate is right; at least one is for each query.
    """
    best_N = np.where(right_NM, similarity_NM, -np.inf).max(axis=1)
    before_NM = (similarity_NM >= best_N[:, None]) & ~right_NM
    return 1 + before_NM.sum(axis=1)


def _result(name: str, kind: str, ranks_N: NDArray[np.int64], candidates: int) -> TaskResult:
    first = _of_depth(name, kind, ranks_N, 1)
    deeper = _of_depth(name, kind, ranks_N, DEPTH)
    wide = bootstrap.score(bootstrap.resampled(deeper))
    first.details[deeper.metric] = wide.value
    if wide.low is not None and wide.high is not None:
        first.details[f"{deeper.metric}_low"] = wide.low
        first.details[f"{deeper.metric}_high"] = wide.high
    first.details["candidates"] = float(candidates)
    return first


def _of_depth(name: str, kind: str, ranks_N: NDArray[np.int64], depth: int) -> TaskResult:
    """Return the share of queries with a right candidate among the first ones."""
    items = tuple((ranks_N <= depth).astype(float).tolist())
    return TaskResult(
        task=name,
        half="senses",
        kind=kind,
        metric=f"recall_at_{depth}",
        score=100 * fmean(items),
        count=len(items),
        seconds=0.0,
        items=items,
    )
