"""The one place where the markers are spelled, and where text becomes token segments.

A prompt is a list of segments. Each segment is tokenised by itself, so the borders of what is
pooled and what is trained are exact token positions and never come from tokenising a piece twice.
For the tokenizers GritLM was published with the result equals tokenising the whole string
(a test compares the ids); for those that would merge ``>\\n`` with what follows, it does not merge.

Text is literal: a marker or a special token inside of it is plain characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

USER = "<|user|>\n"
EMBED = "<|embed|>\n"
ASSISTANT = "<|assistant|>\n"

# Jinja form of the chat format, for tokenizers that come without a template of their own.
CHAT_TEMPLATE = (
    "{{ bos_token if bos_token }}"
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
    messages: Sequence[dict[str, str]], *, answer: bool = True, start: bool = True
) -> list[Segment]:
    """The chat format: turns joined by a newline, answers closed by end-of-sequence.

    A system message has no marker of its own in this format: it opens the user turn after it.

    Args:
        messages: ``{"role": "system" | "user" | "assistant", "content": str}``.
        answer: end with the assistant marker, ready for the model to answer.
        start: False when the turns follow something (a cached document): a newline comes first.
    """
    segments = list(_turns(messages, "" if start else "\n"))
    if answer:
        segments.append(Segment(f"\n{ASSISTANT}" if segments or not start else ASSISTANT))
    return segments


def _turns(messages: Sequence[dict[str, str]], newline: str) -> Iterator[Segment]:
    system = ""
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "system":
            system += content + "\n\n"
        elif role == "user":
            yield Segment(f"{newline}{USER}{system}{content}")
            newline, system = "\n", ""
        else:
            yield Segment(newline + ASSISTANT)
            yield Segment(content, trained=True, end=True)
            newline = "\n"
    if system:
        yield Segment(f"{newline}{USER}{system.rstrip()}")
