"""How much the scheduler does at once, and how much may wait."""

from __future__ import annotations

from dataclasses import dataclass, fields

from gritlm.errors import InputError
from gritlm.lm.encoder import TOKEN_BUDGET
from gritlm.lm.gritlm import GritLM

MAX_MODEL_LEN = 4096  # tokens of a chat where nobody says; most chats are far shorter
SLOT_BYTES = {"cpu": 2 * 2**30, "cuda": 8 * 2**30}  # keys and values of all slots together
SHORTEST = 256  # tokens of a chat, however little memory that leaves


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
        max_num_seqs: chats written at once; each has a slot for its keys and values.
        max_model_len: tokens that a prompt and its answer may have together; None for what the
            model was built for, at most 4,096 and at most what 2 GiB of slots hold (8 on a GPU).
        max_num_batched_tokens: tokens of texts to embed, or of a prompt, between two steps of the
            running chats; a longer text is read alone. None for 512 on a CPU, 16,384 on a GPU.
        max_waiting: requests that wait; one more is refused.
        max_request_tokens: tokens of all prompts and texts of one request; one prompt that fits
            the model is never too many.
        max_waiting_tokens: tokens of all waiting requests. Each has a share (a ``max_waiting``-th)
            to itself: a request of at most its share is refused for their number only. A larger
            one is taken when no other waits.

    Raises:
        InputError: for a value below 1.
    """

    max_num_seqs: int = 8
    max_model_len: int | None = None
    max_num_batched_tokens: int | None = None
    max_waiting: int = 256
    max_request_tokens: int = 300_000
    max_waiting_tokens: int = 2**20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise InputError(f"{field.name}={value}; expected 1 or more")

    @property
    def share(self) -> int:
        """Tokens of a waiting request that are always taken."""
        return self.max_waiting_tokens // self.max_waiting

    def length_for(self, model: GritLM) -> int:
        """Tokens that a prompt and its answer may have together.

        Raises:
            InputError: for more than the model was built for.
        """
        own = model.lm.max_positions
        asked = self.max_model_len
        if asked is None:
            affordable = _slot_bytes(model) // (model.kv_bytes_per_token() * self.max_num_seqs)
            return min(own or MAX_MODEL_LEN, MAX_MODEL_LEN, max(SHORTEST, affordable))
        if own is not None and asked > own:
            raise InputError(f"max_model_len={asked}, the model takes at most {own} tokens")
        return asked

    def budget_for(self, model: GritLM) -> int:
        """Tokens between two steps of the running chats."""
        if self.max_num_batched_tokens is not None:
            return self.max_num_batched_tokens
        return TOKEN_BUDGET.get(model.device.type, TOKEN_BUDGET["cpu"])


def _slot_bytes(model: GritLM) -> int:
    return SLOT_BYTES.get(model.device.type, SLOT_BYTES["cpu"])
