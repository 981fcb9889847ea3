"""Log-probabilities of tokens in responses: text, exact bytes and offset of each token."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Sequence
from typing import Any

from gritlm.lm.token_bytes import TokenBytes
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.serve.engine.requests import TokenLogprob

_DECODER = getincrementaldecoder("utf-8")


class TokenTexts:
    """Names and bytes of a model's tokens."""

    def __init__(self, tokens: SegmentTokenizer) -> None:
        before = tokens.pieces(["a"], first=True)[0]
        self._tokens = TokenBytes(tokens.tokenizer, list(before))

    def of(self, token: int) -> str:
        """Return the name of a token inside a text."""
        return self._tokens.name(token)

    def new_sequence(self) -> SequenceLogprobs:
        """Return the log-probabilities of a new sequence, with no tokens yet."""
        return SequenceLogprobs(self._tokens)


class SequenceLogprobs:
    """Log-probabilities of one sequence, in the order of its tokens."""

    def __init__(self, tokens: TokenBytes) -> None:
        self._tokens = tokens
        self._decoder = _DECODER(errors="replace")
        self._characters = 0
        self._first = True

    def as_chat(self, tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
        """Return tokens in the form of chat completions.

        The bytes of all tokens, joined, are the bytes of the generated text.
        """
        return [self._chat_token(item) for item in tokens]

    def as_completion(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Return tokens in the form of completions: by name, no name twice for one position."""
        names = []
        top = []
        offsets = []
        for item in tokens:
            names.append(self._name(item.token))
            top.append(None if item.logprob is None else self._by_name(item, item.logprob))
            offsets.append(self._characters)
            self._advance(item.token)
        return {
            "tokens": names,
            "token_logprobs": [item.logprob for item in tokens],
            "top_logprobs": top,
            "text_offset": offsets,
        }

    def _chat_token(self, logprob: TokenLogprob) -> dict[str, Any]:
        top = [self._chat_item(token, value) for token, value in logprob.top]
        item = self._chat_item(logprob.token, logprob.logprob) | {"top_logprobs": top}
        self._advance(logprob.token)
        return item

    def _chat_item(self, token: int, logprob: float | None) -> dict[str, Any]:
        utf8 = list(self._tokens.of(token, first=self._first))
        return {"token": self._name(token), "logprob": logprob, "bytes": utf8}

    def _by_name(self, item: TokenLogprob, logprob: float) -> dict[str, float]:
        chosen = self._name(item.token)
        named: dict[str, float] = {}
        for token, value in item.top:
            name = self._name(token)
            if name in named or (name == chosen and token != item.token):
                name = f"token_id:{token}"
            named[name] = value
        return named | {chosen: logprob}

    def _name(self, token: int) -> str:
        return self._tokens.name(token, first=self._first)

    def _advance(self, token: int) -> None:
        """Move the offset behind a token; behind a special token the text has not begun yet."""
        added = self._tokens.of(token, first=self._first)
        self._characters += len(self._decoder.decode(added))
        self._first &= not self._tokens.of(token, first=False)
