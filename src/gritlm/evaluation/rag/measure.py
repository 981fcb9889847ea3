"""Question answering over passages, measured in every setting that a model can be asked in."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from statistics import fmean, median
from time import perf_counter

from tqdm import tqdm

from gritlm import __version__
from gritlm.errors import InputError, ModeError, choice
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
    """Ask all questions in one setting after the other; see :data:`settings.SETTINGS`.

    Greedy, at most 32 new tokens, up to the end token; the whole output counts. The documents and
    their order are the same for every model. Besides ``match`` a result's details give ``em`` and
    ``f1``, the mean number of tokens that are read when the question comes (``tokens_prefilled``),
    the median time until the first token of the answer with what is cached in memory
    (``first_token_ms``), and 1 or 0 for ``own_chat_format``: see :mod:`forms`.

    Args:
        limit: only the first so many questions.
        settings: only these; None for all.
        skip_bad_rows: leave out rows that cannot be used; the results count and name them.

    Returns:
        One result a setting. Those that the model cannot be asked in are left out and logged, and
        so are, with a warning, those in which a question does not fit the model or its memory.

    Raises:
        InputError: when more than half of the rows cannot be used, or one cannot and none is
            skipped, with ``file:line``; for an unknown setting; or when no setting is left.
        ModeError: for a model without its LM head.
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
        log.info("%s is asked in its own chat format: it was not trained on ours", model.source)
    results = []
    reasons = []
    for setting in possible(model, form, questions, among=wanted):
        name = f"{task.name} ({setting})"
        made = _attempted(model, form, questions, setting, name, started, progress)
        if isinstance(made, TaskResult):
            results.append(made.without_rows(bad.count, bad.reasons))
        else:
            log.warning("%s: left out, as %s", name, made)
            reasons.append(f"{setting}: {made}")
            memory.free()
        started = perf_counter()
    if not results:
        raise InputError(
            f"{task.name}: no setting is left of {', '.join(wanted) or 'none'}; "
            + ("; ".join(reasons) or "the model cannot be asked in them")
        )
    return results


def _attempted(
    model: GritLM,
    form: PromptFormat,
    questions: Sequence[Question],
    setting: str,
    name: str,
    started: float,
    progress: bool,
) -> TaskResult | str:
    """One setting; or why some question does not fit the model or its memory."""
    try:
        answered = _answered(model, form, asked(questions, setting), setting, name, progress)
    except InputError as error:
        return str(error)
    except (MemoryError, RuntimeError) as error:
        if not memory.is_out_of_memory(error):
            raise
        return f"one row alone is too much: {' '.join(str(error).split())[:200]}"
    return _result(name, model, form, questions, answered, started)


def _answered(
    model: GritLM,
    form: PromptFormat,
    questions: Sequence[Asked],
    setting: str,
    name: str,
    progress: bool,
) -> list[GeneratedAnswer]:
    read = reader(model, form, setting)
    halver = memory.BatchSizeReducer()

    def answers_to(part: Sequence[Asked]) -> list[GeneratedAnswer]:
        # What blocks a prompt refers to is gone with the batch.
        prompts = [read(each) for each in part]
        return replies(model.lm, prompts, end_ids=model.end_ids, max_new_tokens=MAX_NEW_TOKENS)

    answered: list[GeneratedAnswer] = []
    with tqdm(total=len(questions), desc=printable(name), disable=not progress, leave=False) as bar:
        for start in range(0, len(questions), ROWS_TOGETHER):
            batch = questions[start : start + ROWS_TOGETHER]
            answered += halver.run(answers_to, batch)
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
