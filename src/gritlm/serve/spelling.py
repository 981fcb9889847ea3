"""Token ids -> their characters, for log-probabilities."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gritlm.lm.tokens import SegmentTokenizer
from gritlm.serve.work import TokenLogprob

UNFINISHED = "\ufffd"


class Spelling:
    """What a token adds to a text. It is decoded behind another one: some tokenizers leave out a
    space in front of the first."""

    def __init__(self, tokens: SegmentTokenizer) -> None:
        self._tokenizer = tokens.tokenizer
        self._before = tokens.pieces(["a"], first=True)[0]
        self._size = len(self._decoded(self._before))
        self.of = lru_cache(maxsize=8192)(self._of)

    def as_chat(self, found: TokenLogprob) -> dict[str, Any]:
        """As chats have them."""
        top = [self._one(token, logprob) for token, logprob in found.top]
        return self._one(found.token, found.logprob) | {"top_logprobs": top}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.of(token)
        known = None if UNFINISHED in text else list(text.encode())
        return {"token": text, "logprob": logprob, "bytes": known}

    def _of(self, token: int) -> str:
        return self._decoded([*self._before, token])[self._size :]

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))
