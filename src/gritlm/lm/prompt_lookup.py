"""Drafts of the next tokens without a second model: what followed the same tokens before.

An answer that quotes its prompt or a passage goes on as the text there does, so the tokens behind
the last occurrence of its final tokens are a draft of what comes next ("prompt lookup decoding",
Saxena 2023; verification as in speculative decoding, Leviathan et al. 2022, arXiv 2211.17192). A
single pass verifies the draft; how a wrong one is dropped is in :func:`gritlm.lm.generator.decode`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

_MATCHES = (3, 2)  # lengths of the final tokens that are looked up, in this order
_FIRST_SIZE = 4  # tokens of the first draft
_LONGEST_PAUSE = 32  # tokens without a draft after drafts that were wrong
_MEMORY = 0.75  # weight of earlier drafts in the expectation, once for each draft since
_WIDTH = array("i").itemsize


class PromptLookup:
    """Drafts tokens of one generated text, and adapts to how many of them were right.

    A draft that is right as a whole doubles the next one. After a draft without a right token none
    is made for a while, twice as long each time.

    Args:
        ids: token ids of the prompt, with the passages that the text may quote.
        most: most tokens of a draft.

    Attributes:
        drafted: number of tokens that were drafted.
        accepted: number of those that were right.
    """

    def __init__(self, ids: Sequence[int], *, most: int) -> None:
        self._known = bytearray(array("i", ids).tobytes())
        self._most = most
        self._size = min(_FIRST_SIZE, most)
        self._failures = 0
        self._pause = 0
        self._recent = (_FIRST_SIZE / 2, float(_FIRST_SIZE))  # right and all drafted tokens
        self._watched: list[int] = []
        self._right = 0
        self.drafted = 0
        self.accepted = 0

    def add(self, token: int) -> None:
        """Add a token that was generated."""
        self._known += array("i", [token]).tobytes()
        self._pause = max(0, self._pause - 1)
        if self._watched:
            self._compare(token)

    def draft(self, room: int) -> list[int]:
        """Return the tokens that may come next; none where nothing similar was seen.

        Args:
            room: most tokens to return.
        """
        size = min(self._size, room)
        if size <= 0 or self._pause:
            return []
        for length in _MATCHES:
            end = self._end_of_last(length)
            if end is not None:
                return array("i", bytes(self._known[end : end + size * _WIDTH])).tolist()
        return []

    def expected(self, drafted: int) -> float:
        """Return the expected number of right tokens in a draft, by those before.

        Args:
            drafted: number of its tokens.
        """
        right, seen = self._recent
        return drafted * right / seen

    def watch(self, draft: Sequence[int]) -> None:
        """Compare a draft that no pass verifies with the tokens that are added from now on.

        So later drafts adapt without a pass. A draft that is compared already is not replaced.

        Args:
            draft: tokens of the draft.
        """
        if not self._watched:
            self._watched = list(draft)
            self._right = 0

    def _compare(self, token: int) -> None:
        """Compare an added token with the watched draft."""
        right = token == self._watched[self._right]
        self._right += right
        if not right or self._right == len(self._watched):
            self.judge(len(self._watched), self._right)

    def judge(self, drafted: int, accepted: int) -> None:
        """Adapt to the result of a draft.

        Args:
            drafted: number of its tokens.
            accepted: number of first tokens that were right.
        """
        if not drafted:
            return
        self._watched = []
        right, seen = self._recent
        self._recent = (_MEMORY * right + accepted, _MEMORY * seen + drafted)
        self.drafted += drafted
        self.accepted += accepted
        if accepted == 0:
            self._failures += 1
            self._size = max(1, self._size // 2)
            self._pause = min(2**self._failures, _LONGEST_PAUSE)
            return
        self._failures = 0
        self._size = min(self._most, 2 * self._size if accepted == drafted else accepted + 1)

    def _end_of_last(self, length: int) -> int | None:
        """Return the offset behind the last earlier occurrence of the final tokens; None without.

        Args:
            length: number of final tokens.
        """
        size = length * _WIDTH
        if len(self._known) <= size:
            return None
        wanted = bytes(self._known[-size:])
        at = self._known.rfind(wanted, 0, len(self._known) - _WIDTH)
        while at >= 0 and at % _WIDTH:  # bytes of two neighbouring tokens
            at = self._known.rfind(wanted, 0, at + size - 1)
        return at + size if at >= 0 else None
