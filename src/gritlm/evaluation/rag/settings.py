"""What is read before a question is answered, and which models can be asked so."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from gritlm.evaluation.answers import match
from gritlm.evaluation.rag.blocks import Blocks
from gritlm.evaluation.rag.decode import Reading
from gritlm.evaluation.rag.forms import Form, fitting
from gritlm.evaluation.rag.rows import Question
from gritlm.lm.gritlm import GritLM

log = logging.getLogger(__name__)

# What each one shows beside the others:
SETTINGS = (
    "no context",  # the floor: what the model knows by heart
    "oracle",  # the gold documents alone
    "fresh",  # all documents in one prompt
    "cached",  # the same, as the blocks that embedding them left behind
    "cached causal",  # the same, as blocks of a causal pass
    "shuffled",  # the documents of another question: whether it reads at all
)


def possible(model: GritLM, form: Form, questions: Sequence[Question]) -> list[str]:
    """The settings in which a model can be asked; the others are logged with the reason."""
    why_not = {
        "cached": _uncached(model, form) or _unembedded(model),
        "cached causal": _uncached(model, form),
        "shuffled": _unshuffled(questions),
    }
    for setting, reason in why_not.items():
        if reason:
            log.info("%s: left out, as %s", setting, reason)
    return [setting for setting in SETTINGS if not why_not.get(setting)]


def _uncached(model: GritLM, form: Form) -> str | None:
    if form.own_chat or not model.settings.trained_to_embed:
        return "the model was not trained to embed, nor to read what embedding leaves behind"
    if model.lm.rope() is None:
        return "the keys of this model cannot be moved behind one another"
    return None


def _unembedded(model: GritLM) -> str | None:
    if model.settings.embeds_causally:
        return "the model embeds causally"
    if model.mode == "generative":
        return "the model was loaded with mode='generative'; load it with mode='unified'"
    return None if model.lm.packs else "the attention of this model is built in"


def _unshuffled(questions: Sequence[Question]) -> str | None:
    if any(other is None for other in strangers(questions)):
        return "some question has no other one whose documents do not answer it"
    return None


def strangers(questions: Sequence[Question]) -> list[Question | None]:
    """For each question the next one whose documents do not answer it; None where there is none."""
    return [next(_unrelated(questions, index), None) for index in range(len(questions))]


def _unrelated(questions: Sequence[Question], index: int) -> Iterator[Question]:
    answers = questions[index].answers
    for other in (*questions[index + 1 :], *questions[:index]):
        if not any(match(text, answers) for text in other.documents):
            yield other


def readings(
    model: GritLM, form: Form, questions: Sequence[Question], setting: str
) -> Iterator[Reading]:
    """The prompt of each question, made when it is asked for."""
    if setting.startswith("cached"):
        blocks = Blocks(model.lm, causal=setting == "cached causal")
        yield from (_cached(form, question, blocks) for question in questions)
    elif setting == "no context":
        yield from (Reading(form.alone(question.text)) for question in questions)
    else:
        for question, documents in zip(questions, _documents(questions, setting), strict=True):
            kept = fitting(form, question, documents)
            yield Reading(form.over(question.text, kept))


def _documents(questions: Sequence[Question], setting: str) -> Iterator[tuple[str, ...]]:
    if setting == "shuffled":
        return (other.documents for other in strangers(questions) if other is not None)
    return (each.gold if setting == "oracle" else each.documents for each in questions)


def _cached(form: Form, question: Question, blocks: Blocks) -> Reading:
    documents = fitting(form, question, question.documents)
    first, *others = blocks.of(form.embedded(documents))
    bos = len(form.tokens.prefix)
    tail = form.tail(question.text, documents)
    return Reading(tail, [first, *(block[bos:] for block in others)])
