"""Errors with which the engine refuses or ends a request."""

from __future__ import annotations

from gritlm.errors import GritLMError, InputError


class OverloadedError(GritLMError):
    """A request that the waiting queue has no room for.

    Attributes:
        retry_after_s: estimated seconds until the queue has room again.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DrainingError(GritLMError):
    """A server that shuts down: it accepts no requests, or the time to finish them is over."""


class RequestCancelledError(Exception):
    """The cancellation, while the model ran, of every request that the result was for."""


class TooManyError(InputError):
    """A request for more answers than the waiting queue can ever hold."""

    def __init__(self, answers: int, limit: int) -> None:
        super().__init__(
            f"the request is for {answers} answers (prompts times n), the server takes at most "
            f"{limit} in one request; send several requests, or start the server with a larger "
            "--max-waiting"
        )


class TooManyTokensError(InputError):
    """A request with more tokens, in all of its texts, than one request may have."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"the request has {tokens:,} tokens in all of its texts, the server takes at most "
            f"{limit:,} a request; send it as several requests, or start the server with a larger "
            "--max-request-tokens"
        )


class RequestInterruptedError(DrainingError):
    """A request that was accepted and cut off by the shutdown; it may have had its effect."""


class PromptTooLongError(InputError):
    """A prompt that can never fit.

    Attributes:
        tokens: length of the prompt in tokens.
        limit: most tokens of a prompt and its answer together.
    """

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"the prompt has {tokens} tokens, the server takes {limit} with the answer; "
            "shorten it, or start the server with a larger --max-model-len"
        )
        self.tokens = tokens
        self.limit = limit


class TooManyRowsError(InputError):
    """An answer whose rows can never have KV slots at the same time."""

    def __init__(self, rows: int, limit: int) -> None:
        super().__init__(
            f"fusion 'token' generates the answer from {rows} prompts together, the server has "
            f"{limit} KV slots; lower top_k or margin, take fusion 'sequence', or start the server "
            f"with --max-num-seqs={rows}"
        )
