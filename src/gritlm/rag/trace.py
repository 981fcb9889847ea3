"""What answering took: tokens, bytes and milliseconds of every part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any


@dataclass
class Trace:
    """Filled while an answer is made.

    Attributes:
        mode, blocks: as they were chosen.
        tokens_embedded: of the question, to search with it; read in every mode.
        tokens_reranked: read to put the passages in the model's own order.
        tokens_prefilled: read behind the tokens that are reused.
        tokens_reused: that came as key/value state.
        tokens_computed: whose state was missing and was computed first.
        tokens_recomputed: of those reused or computed, read again.
        tokens_selecting: read to choose the recomputed ones, by ``value`` in two layers only.
        tokens_generated: of the answer.
        parts: of the prompt, in reading order.
        bytes_read: of key/value state, by tier: ``memory``, ``disk``, ``embedding`` (of the
            question), ``computed`` (it was missing).
        milliseconds: of each stage; ``first_token`` counts from the question's text to the first
            id of the answer.
        dropped: ids of passages that had no room.
        reasons: of what was chosen, in words.
        warnings: damage that was met, and what to do about it.
    """

    mode: str = ""
    blocks: str = ""
    tokens_embedded: int = 0
    tokens_reranked: int = 0
    tokens_prefilled: int = 0
    tokens_reused: int = 0
    tokens_computed: int = 0
    tokens_recomputed: int = 0
    tokens_selecting: int = 0
    tokens_generated: int = 0
    parts: list[dict[str, Any]] = field(default_factory=list)
    bytes_read: dict[str, int] = field(default_factory=dict)
    milliseconds: dict[str, float] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def tokens_read(self) -> int:
        """Tokens read between the search and the answer: prefilled, recomputed, chosen from for
        that, or computed for want of state."""
        again = self.tokens_recomputed + self.tokens_selecting
        return self.tokens_prefilled + again + self.tokens_computed

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        started = perf_counter()
        try:
            yield
        finally:
            self.add(name, perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + 1000 * seconds

    def part(
        self, name: str, *, tokens: int, tier: str, nbytes: int = 0, read: int | None = None
    ) -> None:
        """Note a part of the prompt.

        Args:
            read: tokens that were read to compute it; None for ``tokens``.
            tier: where its state came from; ``read`` for what is read behind the others.
        """
        self.parts.append({"part": name, "tokens": tokens, "tier": tier})
        if tier == "read":
            self.tokens_prefilled += tokens
            return
        if tier == "computed":
            self.tokens_computed += tokens if read is None else read
        else:
            self.tokens_reused += tokens
        self.bytes_read[tier] = self.bytes_read.get(tier, 0) + nbytes

    def as_dict(self) -> Mapping[str, Any]:
        """As plain values, for JSON."""
        return vars(self) | {"dropped": list(self.dropped)}
