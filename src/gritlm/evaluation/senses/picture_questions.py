"""Questions about images: greedy answers, and whether they are right."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from tqdm import tqdm

from gritlm.evaluation import answers
from gritlm.evaluation.results import TaskResult
from gritlm.evaluation.senses.media_rows import MediaRow
from gritlm.evaluation.tasks.task import Task
from gritlm.lm.gritlm import GritLM
from gritlm.printable import printable

MAX_NEW_TOKENS = 16
_YES_NO = ("yes", "no")


def measure_questions(
    model: GritLM, task: Task, rows: Sequence[MediaRow], *, progress: bool
) -> TaskResult:
    """Answer each question about its image, and return the share of right answers.

    Args:
        model: model with its LM head.
        task: a local task of type ImageQA; its instruction is written after each question.
        rows: its rows.
        progress: whether to show a progress bar.

    Raises:
        InputError: for a question that exceeds the context of the model.
        ModeError: for a model loaded with ``mode="embedding"``.
    """
    bar = tqdm(rows, desc=printable(task.name), disable=not progress, leave=False)
    outputs = [_answer(model, row, task.instruction) for row in bar]
    pairs = list(zip(outputs, rows, strict=True))
    items = tuple(is_right(output, row.answers) for output, row in pairs)
    groups: dict[str, list[float]] = {}
    for item, row in zip(items, rows, strict=True):
        groups.setdefault("yes_no" if _is_yes_no(row.answers) else "other", []).append(item)
    details = {f"match_{name}": 100 * fmean(found) for name, found in groups.items()}
    return TaskResult(
        task=task.name,
        half="senses",
        kind="question about a picture",
        metric="match",
        score=100 * fmean(items),
        count=len(items),
        seconds=0.0,
        items=items,
        details={
            "em": 100 * fmean(answers.exact(output, row.answers) for output, row in pairs),
            **(details if len(details) > 1 else {}),
        },
    )


def is_right(output: str, references: Sequence[str]) -> float:
    """Return 1 for a right answer, else 0.

    An answer is right if it contains a reference as whole words. For yes and no, the first of the
    two words decides: "yes or no" is no right answer to both.

    Args:
        output: the answer.
        references: reference answers.
    """
    if not _is_yes_no(references):
        return answers.match(output, references)
    found = [word for word in answers.normalise(output).split() if word in _YES_NO]
    return float(bool(found) and found[0] in map(answers.normalise, references))


def _is_yes_no(references: Sequence[str]) -> bool:
    return all(answers.normalise(each) in _YES_NO for each in references)


def _answer(model: GritLM, row: MediaRow, instruction: str) -> str:
    question = "\n".join(filter(None, (row.text, instruction)))
    parts = [
        {"type": "image", "path": row.media["image"]},
        {"type": "text", "text": question},
    ]
    found = model.chat([{"role": "user", "content": parts}], max_new_tokens=MAX_NEW_TOKENS)
    assert isinstance(found, str), "without stream, the whole text is returned"
    return found
