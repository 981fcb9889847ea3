"""The one place where the markers are spelled, and where text becomes token segments.

A prompt is a list of segments. Each segment is tokenised by itself, so the borders of what is
pooled and what is trained are exact token positions and never come from tokenising a piece twice.
For the tokenizers GritLM was published with the result equals tokenising the whole string
(a test compares the ids); for those that would merge ``>\\n`` with what follows, it does not merge.

Text is literal: a marker or a special token inside of it is plain characters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gritlm.errors import choice

USER = "<|user|>\n"
EMBED = "<|embed|>\n"
ASSISTANT = "<|assistant|>\n"

# Jinja form of the chat format, for tokenizers that come without a template of their own.
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
    """The header before a text to embed, in the format of the GritLM paper (section 2).

    >>> gritlm_instruction("Retrieve the abstract")
    '<|user|>\\nRetrieve the abstract\\n<|embed|>\\n'
    >>> gritlm_instruction()
    '<|embed|>\\n'
    """
    return f"{USER}{instruction}\n{EMBED}" if instruction else EMBED


@dataclass(frozen=True)
class Segment:
    """A piece of a prompt that is tokenised by itself.

    Attributes:
        text: the characters, taken literally.
        trained: whether the generative loss is taken on these tokens.
        end: whether the tokenizer's end-of-sequence token follows (and belongs to the segment).
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
    """The chat format: turns joined by a newline, answers closed by end-of-sequence.

    A system message has no marker of its own in this format: it opens the user turn after it.

    Args:
        messages: ``{"role": "system" | "user" | "assistant", "content": str}``.
        answer: end with the assistant marker, ready for the model to answer.
        start: False when the turns follow something (a cached document): a newline comes first.
        context: numbers of the assistant's messages that are not in the loss.
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
    """One order in which a question and its documents are read.

    Attributes:
        before: what stands in front, in this order and in the form in which it is embedded.
        fresh: what the tail spells out.
        closing: the instruction at the end.
    """

    before: tuple[Literal["documents", "question"], ...]
    fresh: Literal["documents", "question"] | None
    closing: str


# "none" reads what "doc" reads, but nothing of it comes from key/value state.
RAG_FORMS: dict[RagMode, RagForm] = {
    "none": RagForm(("documents",), "question", _ANSWER),
    "query": RagForm(("question",), "documents", _OPTIONALLY),
    "doc": RagForm(("documents",), "question", _ANSWER),
    "doc-query": RagForm(("documents", "question"), None, _ANSWER),
    "query-doc": RagForm(("question", "documents"), None, _OPTIONALLY),
}


# How many first tokens of each block but the first are read again over all before them, where
# nobody says otherwise: when answering, and so in training.
READ_AGAIN = 16


def for_rag(mode: RagMode, *, question: str, documents: Sequence[str]) -> list[Segment]:
    """The tail of a RAG prompt: what follows ``RAG_FORMS[mode].before``, up to the answer.

    Args:
        documents: in reading order, the best one last (next to the question). They are spelled out
            in mode ``query`` only, joined by a blank line; each is a segment of its own.

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


def for_yes_no(question: str) -> list[Segment]:
    """The tail that asks whether the passage before it answers a question, up to the answer."""
    return [
        Segment(f"\n{USER}"),
        Segment(f"{question}\n\n{_YES_OR_NO}"),
        Segment(f"\n{ASSISTANT}"),
    ]
