"""Prompt formats of GritLM: markers, chat, embedding and RAG prompts as segments.

A prompt is a list of segments. Each segment is tokenised separately, so the spans of pooled tokens
and of tokens in the loss are exact token positions. For the tokenizers of the published GritLM
models, the result equals tokenising the whole string (a test compares the ids). Tokenizers that
would merge ``>\\n`` with the text after it do not merge them here.

Text is literal: a marker or a special token in it is tokenised as plain characters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gritlm.errors import choice

USER = "<|user|>\n"
EMBED = "<|embed|>\n"
ASSISTANT = "<|assistant|>\n"

# The chat format as a Jinja template, for tokenizers without a chat template.
TEMPLATE_BOS = "{{ bos_token if bos_token }}"
CHAT_TEMPLATE = TEMPLATE_BOS + (
    "{% set seen = namespace(system='', newline='') %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{% set seen.system = seen.system + message['content'] + '\\n\\n' %}"
    "{% elif message['role'] == 'user' %}"
    "{{ seen.newline + '<|user|>\\n' + seen.system + message['content'] }}"
    "{% set seen.system = '' %}{% set seen.newline = '\\n' %}"
    "{% else %}"
    "{{ seen.newline + '<|assistant|>\\n' + message['content'] + eos_token }}"
    "{% set seen.newline = '\\n' %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ seen.newline + '<|assistant|>\\n' }}{% endif %}"
)


def gritlm_instruction(instruction: str = "") -> str:
    """Return the header of a text to embed, in the format of the GritLM paper (section 2).

    >>> gritlm_instruction("Retrieve the abstract")
    '<|user|>\\nRetrieve the abstract\\n<|embed|>\\n'
    >>> gritlm_instruction()
    '<|embed|>\\n'
    """
    return f"{USER}{instruction}\n{EMBED}" if instruction else EMBED


@dataclass(frozen=True)
class Segment:
    """A part of a prompt that is tokenised separately.

    Attributes:
        text: literal text.
        trained: whether the tokens are in the generative loss.
        end: whether the segment ends with the tokenizer's end-of-sequence token.
    """

    text: str
    trained: bool = False
    end: bool = False


def for_chat(
    messages: Sequence[dict[str, str]],
    *,
    answer: bool = True,
    start: bool = True,
    context: Collection[int] = (),
) -> list[Segment]:
    """Return a conversation in the chat format of the GritLM paper.

    Turns are joined by a newline, and each answer ends with the end-of-sequence token. The format
    has no marker for system messages: their text is prepended to the next user turn.

    Args:
        messages: ``{"role": "system" | "user" | "assistant", "content": str}``.
        answer: whether to end with the assistant marker, for the model to answer.
        start: False if the turns follow other text (a cached document); they then begin with a
            newline.
        context: indices of the assistant's messages that are not in the loss.
    """
    segments = list(_turns(messages, "" if start else "\n", context))
    if answer:
        segments.append(Segment(f"\n{ASSISTANT}" if segments or not start else ASSISTANT))
    return segments


def _turns(
    messages: Sequence[dict[str, str]], newline: str, context: Collection[int]
) -> Iterator[Segment]:
    system = ""
    for number, message in enumerate(messages):
        role = message["role"]
        content = message["content"]
        if role == "system":
            system += content + "\n\n"
        elif role == "user":
            yield Segment(f"{newline}{USER}{system}{content}")
            newline = "\n"
            system = ""
        else:
            yield Segment(newline + ASSISTANT)
            yield Segment(content, trained=number not in context, end=True)
            newline = "\n"
    if system:
        yield Segment(f"{newline}{USER}{system.rstrip()}")


RagMode = Literal["none", "query", "doc", "doc-query", "query-doc"]

_ANSWER = "Answer the prior query while optionally using the context prior to it"
_YES_OR_NO = "Does the passage before it answer the question? Answer yes or no."
_OPTIONALLY = "Optionally using the prior context answer the query prior to it"


@dataclass(frozen=True)
class RagForm:
    """The order of question and documents in a RAG prompt.

    Attributes:
        before: the parts at the beginning, in this order, each in its embedding format.
        fresh: the part that is spelled out in the tail; None if both are at the beginning.
        closing: the instruction at the end of the tail.
    """

    before: tuple[Literal["documents", "question"], ...]
    fresh: Literal["documents", "question"] | None
    closing: str


# "none" has the prompt of "doc", but reuses no KV blocks.
RAG_FORMS: dict[RagMode, RagForm] = {
    "none": RagForm(("documents",), "question", _ANSWER),
    "query": RagForm(("question",), "documents", _OPTIONALLY),
    "doc": RagForm(("documents",), "question", _ANSWER),
    "doc-query": RagForm(("documents", "question"), None, _ANSWER),
    "query-doc": RagForm(("question", "documents"), None, _OPTIONALLY),
}


# Default number of first tokens of each block, except the first block, that are recomputed with
# attention to all tokens before them; the same in answers and in training.
READ_AGAIN = 16


def for_rag(mode: RagMode, *, question: str, documents: Sequence[str]) -> list[Segment]:
    """Return the tail of a RAG prompt: the segments after ``RAG_FORMS[mode].before``.

    The tail ends with the assistant marker, for the model to answer.

    Args:
        mode: a key of :data:`RAG_FORMS`.
        question: text of the question.
        documents: texts of the documents in prompt order, the best one last (next to the
            question). Only mode ``query`` spells them out, joined by blank lines; each is a
            segment.

    Raises:
        InputError: for an unknown mode.
    """
    choice(mode, RAG_FORMS, name="mode")
    form = RAG_FORMS[mode]
    spelled = {"documents": documents, "question": [question], None: []}[form.fresh]
    texts = [*spelled, form.closing]
    return [
        Segment(f"\n{USER}"),
        *(Segment(f"\n\n{text}" if index else text) for index, text in enumerate(texts)),
        Segment(f"\n{ASSISTANT}"),
    ]


def for_question(question: str) -> list[Segment]:
    """Return the beginning of the tail of mode ``doc``: the question, all of it in the loss."""
    return [Segment(f"\n{USER}"), Segment(question, trained=True)]


def for_yes_no(question: str) -> list[Segment]:
    """Return the tail that asks whether the passage before it answers a question."""
    return [
        Segment(f"\n{USER}"),
        Segment(f"{question}\n\n{_YES_OR_NO}"),
        Segment(f"\n{ASSISTANT}"),
    ]
