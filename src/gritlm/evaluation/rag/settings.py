"""Settings of question answering (no, gold, all or cached documents), and their prompts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence

from gritlm.evaluation.answers import match
from gritlm.evaluation.rag.blocks import BlockCache
from gritlm.evaluation.rag.decode import PromptToRead
from gritlm.evaluation.rag.prompts import PromptFormat, fitting, fitting_alone
from gritlm.evaluation.rag.questions import Question
from gritlm.lm.gritlm import GritLM

log = logging.getLogger(__name__)

Asked = tuple[Question, tuple[str, ...]]  # a question with the documents before it

SETTINGS = (
    "no context",  # no documents: the knowledge of the model alone
    "oracle",  # only the gold documents
    "fresh",  # all documents in one prompt
    "cached",  # all documents, as KV blocks of the embedding pass
    "cached causal",  # all documents, as KV blocks of a causal pass
    "shuffled",  # the documents of another question: shows whether the model reads at all
)


def possible(
    model: GritLM,
    form: PromptFormat,
    questions: Sequence[Question],
    *,
    among: Collection[str] = SETTINGS,
) -> list[str]:
    """Return the settings that a model supports; the others are logged with the reason.

    Whether a prompt fits the memory and the model's context is not checked here.
    """
    why_not = {
        "cached": _uncached(model, form) or _unembedded(model),
        "cached causal": _uncached(model, form),
        "shuffled": _unshuffled(questions),
    }
    for setting, reason in why_not.items():
        if reason and setting in among:
            log.info("%s: left out, as %s", setting, reason)
    return [each for each in SETTINGS if each in among and not why_not.get(each)]


def _uncached(model: GritLM, form: PromptFormat) -> str | None:
    if form.own_chat or model.settings.trained_to_embed is False:
        return "the model was not trained here to embed and to read cached KV blocks"
    if model.lm.rope() is None:
        return "the keys of this model cannot be moved to other positions"
    return None


def _unembedded(model: GritLM) -> str | None:
    if model.settings.embeds_causally:
        return "the model embeds causally"
    if model.mode == "generative":
        return "the model was loaded with mode='generative'; load it with mode='unified'"
    return None if model.lm.packs else "the attention of this model is built in"


def _unshuffled(questions: Sequence[Question]) -> str | None:
    if any(other is None for other in strangers(questions)):
        return "for some question, the documents of every other question hold its answer"
    return None


def strangers(questions: Sequence[Question]) -> list[Question | None]:
    """Return, for each question, the next one whose documents do not answer it; else None."""
    return [next(_unrelated(questions, index), None) for index in range(len(questions))]


def _unrelated(questions: Sequence[Question], index: int) -> Iterator[Question]:
    answers = questions[index].answers
    for other in (*questions[index + 1 :], *questions[:index]):
        if not any(match(text, answers) for text in other.documents):
            yield other


def asked(questions: Sequence[Question], setting: str) -> list[Asked]:
    """Return the questions, each with the documents of a setting that they support."""
    if setting == "no context":
        return [(each, ()) for each in questions]
    if setting == "oracle":
        return [(each, each.gold) for each in questions]
    if setting == "shuffled":
        pairs = zip(questions, strangers(questions), strict=True)
        return [(each, other.documents) for each, other in pairs if other is not None]
    return [(each, each.documents) for each in questions]


def reader(model: GritLM, form: PromptFormat, setting: str) -> Callable[[Asked], PromptToRead]:
    """Return a function that makes the prompt of a question in a setting.

    The function raises ``InputError``, with ``file:line``, if a question exceeds the model's
    context.
    """
    if setting == "no context":
        return lambda each: PromptToRead(fitting_alone(form, each[0]))
    if setting.startswith("cached"):
        blocks = BlockCache(model.lm, causal=setting == "cached causal")
        return lambda each: _cached_prompt(form, each, blocks)
    return lambda each: _full_prompt(form, each, shuffled=setting == "shuffled")


def _full_prompt(form: PromptFormat, asked: Asked, *, shuffled: bool) -> PromptToRead:
    question, documents = asked
    needed = () if shuffled else question.gold
    kept = fitting(form, question, documents, needed=needed)
    return PromptToRead(form.over(question.text, kept))


def _cached_prompt(form: PromptFormat, asked: Asked, blocks: BlockCache) -> PromptToRead:
    question, documents = asked
    kept = fitting(form, question, documents, needed=question.gold)
    first, *others = blocks.of(form.embedded(kept))
    bos = len(form.tokens.prefix)
    tail = form.tail(question.text, kept)
    return PromptToRead(tail, [first, *(block[bos:] for block in others)])
