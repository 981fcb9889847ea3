"""Limits of the engine: running sequences, tokens per batch, and the waiting queue.

The command line fills them in; the scheduler and its queue apply them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from gritlm.errors import InputError
from gritlm.lm.encoder import TOKEN_BUDGET
from gritlm.lm.gritlm import GritLM

MAX_MODEL_LEN = 4096  # tokens, the default; most chats are far shorter
SLOT_BYTES = {"cpu": 2 * 2**30, "cuda": 8 * 2**30}  # memory of all KV slots together
MIN_MODEL_LEN = 256  # tokens, the default where memory is scarce


@dataclass(frozen=True)
class Limits:
    """Limits on running and waiting requests.

    Attributes:
        max_num_seqs: most sequences that are generated together; each has a KV slot.
        max_model_len: most tokens of a prompt and its answer together. None for the length the
            model was built for, at most 4,096 and at most what fits 2 GiB of slots (on a GPU 8,
            and half of its free memory).
        max_num_batched_tokens: most tokens of texts to embed, or of a prompt, between two decode
            steps; a longer text is a batch of its own. None for 512 on a CPU, 16,384 on a GPU.
        max_waiting: most waiting requests; one more is refused.
        max_request_tokens: most tokens in all prompts and texts of one request. A single prompt
            that fits the model is always accepted.
        max_waiting_tokens: most tokens of all waiting requests. Each request has a share of
            1 / ``max_waiting`` of them: a request within its share is refused only for the number
            of waiting requests. A larger request is accepted when no other waits.

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
        """Tokens that a waiting request may have whatever the others have."""
        return self.max_waiting_tokens // self.max_waiting

    def length_for(self, model: GritLM) -> int:
        """Return the most tokens of a prompt and its answer together.

        Raises:
            InputError: for a ``max_model_len`` longer than the model was built for.
        """
        model_limit = model.lm.max_positions
        requested = self.max_model_len
        if requested is None:
            affordable = _slot_bytes(model) // (model.kv_bytes_per_token() * self.max_num_seqs)
            return min(model_limit or MAX_MODEL_LEN, MAX_MODEL_LEN, max(MIN_MODEL_LEN, affordable))
        if model_limit is not None and requested > model_limit:
            raise InputError(
                f"max_model_len={requested}, the model takes at most {model_limit} tokens; lower it"
            )
        return requested

    def budget_for(self, model: GritLM) -> int:
        """Return the most prefill or embedding tokens between two decode steps."""
        if self.max_num_batched_tokens is not None:
            return self.max_num_batched_tokens
        return TOKEN_BUDGET.get(model.device.type, TOKEN_BUDGET["cpu"])


def _slot_bytes(model: GritLM) -> int:
    """Return the most bytes of all KV slots; on a GPU half of the free memory is left to passes."""
    kind = model.device.type
    most = SLOT_BYTES.get(kind, SLOT_BYTES["cpu"])
    if kind != "cuda":
        return most
    free, _ = torch.cuda.mem_get_info(model.device)
    return min(most, free // 2)
