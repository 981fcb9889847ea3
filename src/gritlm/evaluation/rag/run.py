"""Question answering over passages, measured in every setting that a model can be asked in."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from statistics import fmean, median
from time import perf_counter

from tqdm import tqdm

from gritlm import __version__
from gritlm.errors import ModeError
from gritlm.evaluation import answers
from gritlm.evaluation.rag import rows
from gritlm.evaluation.rag.decode import Reading, Reply, replies
from gritlm.evaluation.rag.forms import MAX_NEW_TOKENS, Form, form_for
from gritlm.evaluation.rag.rows import Question
from gritlm.evaluation.rag.settings import possible, readings
from gritlm.evaluation.results import TaskResult
from gritlm.evaluation.tasks import Task
from gritlm.lm.gritlm import GritLM

log = logging.getLogger(__name__)

ROWS_TOGETHER = 16

Answered = list[tuple[Reading, Reply]]


def measure(
    model: GritLM, task: Task, *, limit: int | None = None, progress: bool = False
) -> list[TaskResult]:
    """Ask all questions in one setting after the other; see :data:`settings.SETTINGS`.

    Greedy, at most 32 new tokens, up to the end token; the whole output counts. The documents and
    their order are the same for every model. Besides ``match`` a result's details give ``em`` and
    ``f1``, the mean number of tokens that are read when the question comes (``tokens_prefilled``),
    the median time until the first token of the answer with what is cached in memory
    (``first_token_ms``), and 1 or 0 for ``own_chat_format``: see :mod:`forms`.

    Args:
        limit: only the first so many questions.

    Returns:
        One result a setting; those the model cannot be asked in are left out and logged.

    Raises:
        InputError: for a row that cannot be used or does not fit the model, with ``file:line``.
        ModeError: for a model without its LM head.
    """
    if not model.lm.has_head:
        raise ModeError("a model loaded with mode='embedding' answers nothing; use mode='unified'")
    started = perf_counter()
    questions = rows.load(task.folder, limit=limit)
    form = form_for(model)
    if form.own_chat:
        log.info("%s is asked in its own chat format: it was not trained on ours", model.source)
    results = []
    for setting in possible(model, form, questions):
        name = f"{task.name} ({setting})"
        made = readings(model, form, questions, setting)
        with tqdm(total=len(questions), desc=name, disable=not progress, leave=False) as bar:
            answered: Answered = []
            for batch in _batches(made):
                answered += zip(batch, _asked(model, batch), strict=True)
                bar.update(len(batch))
        results.append(_result(name, model, form, questions, answered, perf_counter() - started))
        started = perf_counter()
    return results


def _batches(made: Iterator[Reading]) -> Iterator[list[Reading]]:
    while batch := list(islice(made, ROWS_TOGETHER)):
        yield batch


def _asked(model: GritLM, batch: Sequence[Reading]) -> list[Reply]:
    return replies(model.lm, batch, end_ids=model.end_ids, max_new_tokens=MAX_NEW_TOKENS)


def _result(
    name: str, model: GritLM, form: Form, questions: Sequence[Question], answered: Answered,
    seconds: float,
) -> TaskResult:  # fmt: skip
    outputs = [
        str(model.tokenizer.decode(reply.ids, skip_special_tokens=True)) for _, reply in answered
    ]
    pairs = [(text, each.answers) for text, each in zip(outputs, questions, strict=True)]
    items = tuple(answers.match(*pair) for pair in pairs)
    return TaskResult(
        task=name,
        half="rag",
        kind="QA",
        metric="match",
        score=100 * fmean(items),
        count=len(items),
        seconds=seconds,
        items=items,
        details={
            "em": 100 * fmean(answers.exact(*pair) for pair in pairs),
            "f1": 100 * fmean(answers.f1(*pair) for pair in pairs),
            "tokens_prefilled": fmean(len(reading.ids) for reading, _ in answered),
            "first_token_ms": 1000 * median(reply.first_token_s for _, reply in answered),
            "own_chat_format": float(form.own_chat),
        },
        harness=f"gritlm {__version__}",
    )
