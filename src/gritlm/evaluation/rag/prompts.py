"""Prompts of question answering: token ids of questions and documents, in the model's format.

A model trained with gritlm gets the documents as they are embedded, followed by the question in
the format of :func:`prompts.for_rag`: exactly the ids of training. Any other model never saw this
format. It gets the same texts as one user message in its own chat format, with a request for a
short answer, so that the comparison is about reading and not about the format. Without documents
every model gets the chat message.
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
    """Prompt format of one model.

    Attributes:
        tokens: tokenizer of prompt segments.
        settings: settings of the model.
        own_chat: whether documents and question go into a user message of the model's own chat
            format.
        room: largest number of tokens of a prompt.
    """

    tokens: SegmentTokenizer
    settings: ModelSettings
    own_chat: bool
    room: int

    def alone(self, question: str) -> list[int]:
        """Return the ids of a question without documents, in the chat format."""
        return chat_ids(self.tokens, f"{question}\n\n{BRIEFLY}", template=self.settings.template)

    def over(self, question: str, documents: Sequence[str]) -> list[int]:
        """Return the ids of documents and question in one prompt."""
        if self.own_chat:
            text = "\n\n".join([*documents, question, BRIEFLY])
            return chat_ids(self.tokens, text, template=self.settings.template)
        bos = len(self.tokens.prefix)
        first, *others = self.embedded(documents)
        read = first + [i for ids in others for i in ids[bos:]]
        return read + self.tail(question, documents)

    def embedded(self, documents: Sequence[str]) -> list[list[int]]:
        """Return the ids of each document as it is embedded, BOS included."""
        prompts, _ = self.tokens.for_embedding(
            documents,
            max_length=sys.maxsize,
            instruction=gritlm_instruction(),
            end=self.settings.embed_eos,
        )
        return [prompt.ids for prompt in prompts]

    def tail(self, question: str, documents: Sequence[str]) -> list[int]:
        """Return the ids between the embedded documents and the answer."""
        segments = for_rag("doc", question=question, documents=documents)
        return self.tokens.for_chat(segments, start=False).ids


def form_for(model: GritLM) -> PromptFormat:
    """Return the format a model was trained on, or its own chat format for a foreign model."""
    settings = model.settings
    limit = model.lm.max_positions
    return PromptFormat(
        tokens=SegmentTokenizer(model.tokenizer),
        settings=settings,
        # A model without a chat format has seen neither format, and gets that of the paper.
        own_chat=settings.template == "tokenizer" and not settings.trained_to_embed,
        room=(limit or sys.maxsize) - MAX_NEW_TOKENS,
    )


def fitting_alone(form: PromptFormat, question: Question) -> list[int]:
    """Return the ids of a question without documents.

    Raises:
        InputError: if the question exceeds the model's context, with ``file:line``.
    """
    ids = form.alone(question.text)
    if len(ids) > form.room:
        raise _too_long(form, question, "the question has", len(ids))
    return ids


def fitting(
    form: PromptFormat, question: Question, documents: Sequence[str], *, needed: Collection[str]
) -> list[str]:
    """Return the documents that fit the model's context together with the question.

    As in training, the first documents are left out until the rest fits; the last remaining one
    is cut at its end.

    Args:
        form: prompt format of the model.
        question: the question.
        documents: texts of the documents, in reading order.
        needed: documents that are neither left out nor cut.

    Raises:
        InputError: if the question and the needed documents do not fit, with ``file:line``.
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
    """Return the longest beginning of a document that fits, cut between characters."""

    def size(characters: int) -> int:
        return len(form.over(question.text, [document[:characters]]))

    return document[: bisect_right(range(1, len(document) + 1), form.room, key=size)]


def _too_long(form: PromptFormat, question: Question, subject: str, size: int) -> InputError:
    return InputError(
        f"{question.place}: {subject} {size} tokens, the model takes {form.room} and "
        f"{MAX_NEW_TOKENS} of an answer; shorten them, or leave the row out"
    )
