"""A chat in process with its token counts and the reason of its end, which frameworks report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from gritlm.lm.chat import Message
from gritlm.lm.generator import TextStream, answer_room, complete
from gritlm.lm.gritlm import GritLM
from gritlm.lm.sampling import SamplingParams


class CountedChat:
    """Iterator over the pieces of an answer, which counts tokens.

    Args:
        model: a model that generates.
        messages: the conversation.
        sampling: settings of the answer.

    Attributes:
        prompt_tokens: number of tokens of the conversation.
        completion_tokens: number of tokens generated so far, the end token not counted.

    Raises:
        InputError: for an invalid or too long conversation, or a setting out of range.
        ModeError: for a model loaded with ``mode="embedding"``.
    """

    def __init__(
        self, model: GritLM, messages: Sequence[Message], sampling: SamplingParams
    ) -> None:
        model.require_head()
        ids = model.chat_ids(messages)
        self.prompt_tokens = len(ids)
        self.completion_tokens = 0
        self._room = answer_room(model.lm, len(ids), sampling.max_new_tokens)
        self._tokens = complete(
            model.lm,
            ids,
            sampler=sampling.sampler(),
            max_new_tokens=self._room,
            end_ids=model.end_ids,
            lookup=sampling.lookup(ids),
        )
        self._text = TextStream(model.tokenizer, sampling.stop)

    def __iter__(self) -> Iterator[str]:
        return self._text.pieces(self._counted())

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """``length`` if the answer was cut, ``stop`` if the model or a stop string ended it."""
        cut = self.completion_tokens >= self._room and not self._text.stopped
        return "length" if cut else "stop"

    def _counted(self) -> Iterator[int]:
        for token in self._tokens:
            self.completion_tokens += 1
            yield token
