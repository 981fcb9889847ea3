"""Measuring of question answering over passages, in every setting that a model supports.

Answers are decoded greedily with at most 32 new tokens, and scored as a whole. The documents and
their order are the same for every model. The main metric is ``match``. The details of a result hold
``em`` and ``f1``, the mean number of tokens prefilled for a question (``tokens_prefilled``), the
median time to the first token with cached blocks in memory (``first_token_ms``), and
``own_chat_format``: 1 if the model used its own chat format, else 0 (see :mod:`prompts`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from statistics import fmean, median
from time import perf_counter

from tqdm import tqdm

from gritlm import __version__
from gritlm.errors import InputError, ModeError, choice, one_line
from gritlm.evaluation import answers, memory
from gritlm.evaluation.rag import questions as rows
from gritlm.evaluation.rag.decode import GeneratedAnswer, replies
from gritlm.evaluation.rag.prompts import MAX_NEW_TOKENS, PromptFormat, form_for
from gritlm.evaluation.rag.questions import Question
from gritlm.evaluation.rag.settings import SETTINGS, Asked, asked, possible, reader
from gritlm.evaluation.results import TaskResult
from gritlm.evaluation.tasks.bad_rows import BadRows
from gritlm.evaluation.tasks.task import Task
from gritlm.lm.gritlm import GritLM
from gritlm.printable import printable

log = logging.getLogger(__name__)

ROWS_TOGETHER = 16


def measure(
    model: GritLM,
    task: Task,
    *,
    limit: int | None = None,
    progress: bool = False,
    settings: Sequence[str] | None = None,
    skip_bad_rows: bool = True,
) -> list[TaskResult]:
    """Answer all questions in each setting of :data:`settings.SETTINGS`, and score the answers.

    Args:
        model: model with its LM head.
        task: a local task of type QA.
        limit: number of questions; None for all.
        progress: whether to show a progress bar.
        settings: settings to measure; None for all.
        skip_bad_rows: leave out unusable rows; the results hold their number and the reasons.

    Returns:
        A result for each setting. Settings that the model does not support are left out and
        logged. Settings in which a question exceeds the model's context or the memory are left
        out with a warning.

    Raises:
        InputError: if more than half of the rows are unusable; for the first unusable row, with
            ``file:line``, if ``skip_bad_rows`` is False; for an unknown setting; or if no setting
            can be measured.
        ModeError: if the model was loaded without its LM head.
    """
    if not model.lm.has_head:
        raise ModeError("a model loaded with mode='embedding' answers nothing; use mode='unified'")
    chosen = SETTINGS if settings is None else settings
    wanted = [choice(each, SETTINGS, name="settings") for each in chosen]
    started = perf_counter()
    bad = BadRows(skip=skip_bad_rows)
    questions = rows.load(task.folder, limit=limit, bad=bad)
    form = form_for(model)
    if form.own_chat:
        log.info("%s is asked in its own chat format, as it was not trained on ours", model.source)
    results = []
    reasons = []
    for setting in possible(model, form, questions, among=wanted):
        name = f"{task.name} ({setting})"
        outcome = _try_setting(model, form, questions, setting, name, started, progress)
        if isinstance(outcome, TaskResult):
            results.append(outcome.without_rows(bad.count, bad.reasons))
        else:
            log.warning("%s: left out, as %s", name, outcome)
            reasons.append(f"{setting}: {outcome}")
            memory.free()
        started = perf_counter()
    if not results:
        listed = ", ".join(wanted) or "an empty list"
        raise InputError(
            f"{task.name}: no setting is left of {listed}; "
            + ("; ".join(reasons) or "the model cannot be measured in them")
        )
    return results


def _try_setting(
    model: GritLM,
    form: PromptFormat,
    questions: Sequence[Question],
    setting: str,
    name: str,
    started: float,
    progress: bool,
) -> TaskResult | str:
    """Measure a setting; return the reason instead if a question exceeds context or memory."""
    try:
        answered = _answer(model, form, asked(questions, setting), setting, name, progress)
    except InputError as error:
        return str(error)
    except (MemoryError, RuntimeError) as error:
        if not memory.is_out_of_memory(error):
            raise
        return f"one row alone is too much: {one_line(error, limit=200)}"
    return _result(name, model, form, questions, answered, started)


def _answer(
    model: GritLM,
    form: PromptFormat,
    questions: Sequence[Asked],
    setting: str,
    name: str,
    progress: bool,
) -> list[GeneratedAnswer]:
    make_prompt = reader(model, form, setting)
    reducer = memory.BatchSizeReducer()

    def answer_batch(part: Sequence[Asked]) -> list[GeneratedAnswer]:
        # Prompts are made here, so that their blocks are freed with the batch.
        prompts = [make_prompt(each) for each in part]
        return replies(model.lm, prompts, end_ids=model.end_ids, max_new_tokens=MAX_NEW_TOKENS)

    answered: list[GeneratedAnswer] = []
    with tqdm(total=len(questions), desc=printable(name), disable=not progress, leave=False) as bar:
        for start in range(0, len(questions), ROWS_TOGETHER):
            batch = questions[start : start + ROWS_TOGETHER]
            answered += reducer.run(answer_batch, batch)
            bar.update(len(batch))
    return answered


def _result(
    name: str,
    model: GritLM,
    form: PromptFormat,
    questions: Sequence[Question],
    answered: Sequence[GeneratedAnswer],
    started: float,
) -> TaskResult:
    outputs = [
        str(model.tokenizer.decode(reply.ids, skip_special_tokens=True)) for reply in answered
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
        seconds=perf_counter() - started,
        items=items,
        details={
            "em": 100 * fmean(answers.exact(*pair) for pair in pairs),
            "f1": 100 * fmean(answers.f1(*pair) for pair in pairs),
            "tokens_prefilled": fmean(reply.tokens_read for reply in answered),
            "first_token_ms": 1000 * median(reply.first_token_s for reply in answered),
            "own_chat_format": float(form.own_chat),
        },
        harness=f"gritlm {__version__}",
    )
