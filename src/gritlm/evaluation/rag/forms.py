"""How a model is asked: questions and documents -> token ids.

A model that is trained here reads a question over passages in the form of :func:`prompts.for_rag`,
behind documents as they are embedded: exactly the ids of training. A model that only ever learned
to write would be asked in a language it never saw; it gets the same texts as one user message in
its own chat format, with a request for a short answer, so that what is compared is the reading.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from gritlm.errors import InputError
from gritlm.evaluation.rag.rows import Question
from gritlm.lm.chat import chat_ids
from gritlm.lm.gritlm import GritLM
from gritlm.lm.settings import Settings
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.prompts import for_rag, gritlm_instruction

MAX_NEW_TOKENS = 32
BRIEFLY = "Answer in a few words."


@dataclass(frozen=True)
class Form:
    """How one model is asked.

    Attributes:
        own_chat: in its own chat format, with what is read in the user's message.
        room: tokens that a prompt may have.
    """

    tokens: SegmentTokenizer
    settings: Settings
    own_chat: bool
    room: int

    def alone(self, question: str) -> list[int]:
        """The question without documents, in the chat format."""
        text = f"{question}\n\n{BRIEFLY}" if self.own_chat else question
        return chat_ids(self.tokens, text, template=self.settings.template)

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
            documents, max_length=sys.maxsize, instruction=gritlm_instruction(),
            end=self.settings.embed_eos,
        )  # fmt: skip
        return [prompt.ids for prompt in prompts]

    def tail(self, question: str, documents: Sequence[str]) -> list[int]:
        """What stands behind embedded documents, up to the answer."""
        segments = for_rag("doc", question=question, documents=documents)
        return self.tokens.for_chat(segments, start=False).ids


def form_for(model: GritLM) -> Form:
    """The form that a model was trained on, or its own chat format if it was not trained here."""
    settings = model.settings
    limit = model.lm.max_positions
    return Form(
        tokens=SegmentTokenizer(model.tokenizer),
        settings=settings,
        # One without a chat format of its own has seen neither form, and gets that of the paper.
        own_chat=settings.template == "tokenizer" and not settings.trained_to_embed,
        room=(limit or sys.maxsize) - MAX_NEW_TOKENS,
    )


def fitting(form: Form, question: Question, documents: Sequence[str]) -> list[str]:
    """The documents, without the first ones that are not gold while there is no room for all.

    Raises:
        InputError: with the place of a question that does not fit with its gold documents.
    """
    kept = list(documents)
    while (size := len(form.over(question.text, kept))) > form.room:
        spare = [text for text in kept if text not in question.gold]
        if not spare or len(kept) == 1:
            raise InputError(
                f"{question.place}: the question and its documents have {size} tokens, the model "
                f"takes {form.room} and {MAX_NEW_TOKENS} of an answer; shorten the documents, or "
                "leave the row out"
            )
        kept.remove(spare[0])
    return kept
