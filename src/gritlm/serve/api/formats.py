"""How answers are spelled: OpenAI's chats and completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gritlm.serve.api.logprobs import AnswerSpelling, TokenTexts
from gritlm.serve.api.streaming import GeneratedText, TokenUsage
from gritlm.serve.engine.requests import EngineEvent, OutputDelta, TokenLogprob


class _Form:
    """What answers of both kinds have in common.

    Args:
        head: id, model and what else all of them have.
        logprobs: whether they were asked for.
        usage: whether each event has the field.
    """

    chunk_object: str

    def __init__(
        self, head: Mapping[str, Any], spelling: TokenTexts, *, logprobs: bool, usage: bool
    ) -> None:
        self._head = head
        self._spelling = spelling
        self._logprobs = logprobs
        self._empty = {"usage": None} if usage else {}
        self._answers: dict[int, AnswerSpelling] = {}

    def note(self, event: EngineEvent) -> None:
        """Nothing follows from it."""

    def closing(self, tally: TokenUsage, *, include_usage: bool) -> Mapping[str, Any] | None:
        if not include_usage:
            return None
        return self.event([]) | {"usage": tally.usage()}

    def _answer(self, index: int) -> AnswerSpelling:
        return self._answers.setdefault(index, self._spelling.answer())

    def event(self, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": self.chunk_object, "choices": choices, **self._empty}


class ChatResponseBuilder(_Form):
    """``chat.completion`` and its chunks."""

    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def whole(self, parts: list[GeneratedText], tally: TokenUsage) -> Mapping[str, Any]:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": part.text, "refusal": None},
                "logprobs": self._spelled(index, part.logprobs),
                "finish_reason": part.finish_reason,
            }
            for index, part in enumerate(parts)
        ]
        return {
            **self._head,
            "object": self.whole_object,
            "choices": choices,
            "usage": tally.usage(),
        }

    def opening(self, index: int) -> Mapping[str, Any]:
        return self._event(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, delta: OutputDelta) -> Mapping[str, Any]:
        added = {"content": delta.text} if delta.text or delta.logprobs else {}
        return self._event(
            index,
            added,
            finish_reason=delta.finish_reason,
            logprobs=self._spelled(index, delta.logprobs) if delta.logprobs else None,
        )

    def _event(
        self,
        index: int,
        delta: Mapping[str, Any],
        *,
        logprobs: Any = None,
        finish_reason: str | None = None,
    ) -> Mapping[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return self.event([choice])

    def _spelled(self, index: int, found: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        return {"content": self._answer(index).as_chat(found), "refusal": None}


class CompletionResponseBuilder(_Form):
    """``text_completion``, whole and in pieces."""

    whole_object = chunk_object = "text_completion"

    def whole(self, parts: list[GeneratedText], tally: TokenUsage) -> Mapping[str, Any]:
        choices = [
            self._choice(index, part.text, part.logprobs, part.finish_reason)
            for index, part in enumerate(parts)
        ]
        return {**self._head, "choices": choices, "usage": tally.usage()}

    def opening(self, index: int) -> Mapping[str, Any] | None:
        del index  # an answer begins with its text
        return None

    def piece(self, index: int, delta: OutputDelta) -> Mapping[str, Any]:
        choice = self._choice(index, delta.text, delta.logprobs, delta.finish_reason)
        return self.event([choice])

    def _choice(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob], finish_reason: str | None
    ) -> dict[str, Any]:
        spelled = self._answer(index).as_completion(logprobs) if self._logprobs else None
        return {"index": index, "text": text, "logprobs": spelled, "finish_reason": finish_reason}
