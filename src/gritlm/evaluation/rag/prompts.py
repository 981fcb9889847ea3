"""How a model is asked: questions and documents -> token ids.

A model that is trained here reads a question over passages in the form of :func:`prompts.for_rag`,
behind documents as they are embedded: exactly the ids of training. A model that only ever learned
to write, or of which nobody says more, would be asked in a language it never saw; it gets the same
texts as one user message in its own chat format, with a request for a short answer, so that what
is compared is the reading. Without documents every model gets that request.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gritlm.errors import InputError
from gritlm.evaluation.rag.questions import Question
from gritlm.lm.chat import chat_ids
from gritlm.lm.gritlm import GritLM
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.prompts import for_rag, gritlm_instruction

MAX_NEW_TOKENS = 32
BRIEFLY = "Answer in a few words."


@dataclass(frozen=True)
class PromptFormat:
    """How one model is asked.

    Attributes:
        own_chat: in its own chat format, with what is read in the user's message.
        room: tokens that a prompt may have.
    """

    tokens: SegmentTokenizer
    settings: ModelSettings
    own_chat: bool
    room: int

    def alone(self, question: str) -> list[int]:
        """The question without documents, in the chat format."""
        return chat_ids(self.tokens, f"{question}\n\n{BRIEFLY}", template=self.settings.template)

    def over(self, question: str, documents: Sequence[str]) -> list[int]:
        """Documents and question in one prompt."""
        if self.own_chat:
            text = "\n\n".join([*documents, question, BRIEFLY])
            return chat_ids(self.tokens, text, template=self.settings.template)
        bos = len(self.tokens.prefix)
        first, *others = self.embedded(documents)
        read = first + [i for ids in others for i in ids[bos:]]
        return read + self.tail(question, documents)

    def embedded(self, documents: Sequence[str]) -> list[list[int]]:
        """Each document as it is embedded, BOS and all."""
        prompts, _ = self.tokens.for_embedding(
            documents,
            max_length=sys.maxsize,
            instruction=gritlm_instruction(),
            end=self.settings.embed_eos,
        )
        return [prompt.ids for prompt in prompts]

    def tail(self, question: str, documents: Sequence[str]) -> list[int]:
        """What stands behind embedded documents, up to the answer."""
        segments = for_rag("doc", question=question, documents=documents)
        return self.tokens.for_chat(segments, start=False).ids


def form_for(model: GritLM) -> PromptFormat:
    """The form that a model was trained on, or its own chat format if it was not trained here."""
    settings = model.settings
    limit = model.lm.max_positions
    return PromptFormat(
        tokens=SegmentTokenizer(model.tokenizer),
        settings=settings,
        # One without a chat format of its own has seen neither form, and gets that of the paper.
        own_chat=settings.template == "tokenizer" and not settings.trained_to_embed,
        room=(limit or sys.maxsize) - MAX_NEW_TOKENS,
    )


def fitting_alone(form: PromptFormat, question: Question) -> list[int]:
    """The ids of a question without documents.

    Raises:
        InputError: with its place, when it does not fit.
    """
    ids = form.alone(question.text)
    if len(ids) > form.room:
        raise _too_long(form, question, "the question has", len(ids))
    return ids


def fitting(
    form: PromptFormat, question: Question, documents: Sequence[str], *, needed: Collection[str]
) -> list[str]:
    """The documents, the first ones left out while there is no room for all; as in training.

    Of the last one that is left the end is cut.

    Args:
        needed: documents that are neither left out nor cut.

    Raises:
        InputError: with the place of a question that does not fit with those.
    """
    kept = list(documents)
    while (size := len(form.over(question.text, kept))) > form.room:
        spare = next((text for text in kept if text not in needed), None)
        if spare is not None and len(kept) > 1:
            kept.remove(spare)
            continue
        if spare is not None and (beginning := _cut(form, question, spare)):
            return [beginning]
        raise _too_long(form, question, "the question and its documents have", size)
    return kept


def _cut(form: PromptFormat, question: Question, document: str) -> str:
    """As much of its beginning as fits; cut as text, as a reader would get it."""

    def size(characters: int) -> int:
        return len(form.over(question.text, [document[:characters]]))

    return document[: bisect_right(range(1, len(document) + 1), form.room, key=size)]


def _too_long(form: PromptFormat, question: Question, what: str, size: int) -> InputError:
    return InputError(
        f"{question.place}: {what} {size} tokens, the model takes {form.room} and "
        f"{MAX_NEW_TOKENS} of an answer; shorten them, or leave the row out"
    )
