"""Cost model of the shared tier: the time to fetch a block against the time to prefill it.

``latency + bytes / bandwidth`` against ``recompute cost / prefill rate``. All four are measured
while blocks are fetched and computed; recent measurements weigh most.
"""

from __future__ import annotations

from dataclasses import dataclass

from gritlm.rag.kvstore.eviction import recompute_cost

_KEEP = 0.8  # weight of all earlier measurements
_TRIAL = 64  # declined blocks after which one is fetched to measure again
_LEAST_SECONDS = 1e-6


@dataclass
class Rate:
    """A rate measured several times: sums of amounts and seconds, in which old ones fade."""

    amount: float = 0.0
    seconds: float = 0.0

    def add(self, amount: float, seconds: float) -> None:
        """Add a measurement.

        Args:
            amount: bytes, requests or tokens.
            seconds: their time.
        """
        self.amount = _KEEP * self.amount + amount
        self.seconds = _KEEP * self.seconds + max(seconds, _LEAST_SECONDS)

    def seconds_for(self, amount: float) -> float | None:
        """Return the seconds that an amount takes; None before the first measurement."""
        return amount * self.seconds / self.amount if self.amount else None


class FetchCosts:
    """Measured costs of fetching and of computing blocks.

    Args:
        bytes_per_token: bytes of a token, until blocks have been seen.
        always: whether every block is fetched.
    """

    def __init__(self, bytes_per_token: float, *, always: bool = False) -> None:
        self._always = always
        self._bytes = Rate()  # bytes by tokens
        self._first_bytes = bytes_per_token
        self._requests = Rate()
        self._transfer = Rate()
        self._prefill = Rate()
        self._declined = 0

    def measure_request(self, seconds: float) -> None:
        """Note the time of a request for a few bytes."""
        self._requests.add(1, seconds)

    def measure_fetch(self, tokens: int, nbytes: int, seconds: float) -> None:
        """Note the time to fetch a block.

        Args:
            tokens: tokens of the block.
            nbytes: its bytes.
            seconds: time of the whole request.
        """
        self.measure_size(tokens, nbytes)
        self._transfer.add(nbytes, seconds - (self._requests.seconds_for(1) or 0.0))

    def measure_size(self, tokens: int, nbytes: int) -> None:
        """Note the size of a block.

        Args:
            tokens: tokens of the block.
            nbytes: its bytes.
        """
        self._bytes.add(nbytes, tokens)

    def measure_prefill(self, tokens: int, seconds: float) -> None:
        """Note the time to compute a block.

        Args:
            tokens: tokens of the block.
            seconds: time of the pass.
        """
        self._prefill.add(recompute_cost(tokens), seconds)

    def fetch_seconds(self, tokens: int) -> float | None:
        """Return the time to fetch a block of this size; None if nothing was measured."""
        of_tokens = self._bytes.amount / self._bytes.seconds if self._bytes.amount else None
        nbytes = tokens * (of_tokens or self._first_bytes)
        transfer = self._transfer.seconds_for(nbytes)
        if transfer is None:
            return None
        return (self._requests.seconds_for(1) or 0.0) + transfer

    def prefill_seconds(self, tokens: int) -> float | None:
        """Return the time to compute a block of this size; None if nothing was measured."""
        return self._prefill.seconds_for(recompute_cost(tokens))

    def is_worth(self, tokens: int) -> bool:
        """Return whether a block of this size is fetched faster than computed.

        It is taken to be, until both were measured.
        """
        fetch, prefill = self.fetch_seconds(tokens), self.prefill_seconds(tokens)
        return self._always or fetch is None or prefill is None or fetch < prefill

    def allows_fetch(self, tokens: int) -> bool:
        """Return whether to fetch a block: one that is worth it, or a trial after 64 that are not.

        Args:
            tokens: tokens of the block.
        """
        if self.is_worth(tokens):
            return True
        self._declined += 1
        return self._declined % _TRIAL == 0
