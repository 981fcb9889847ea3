"""What the scheduler answers when it does not do what is asked."""

from __future__ import annotations

from gritlm.errors import GritLMError, InputError


class OverloadedError(GritLMError):
    """As much waits as may wait.

    Attributes:
        retry_after_s: when there should be room again.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DrainingError(GritLMError):
    """The server is on its way out: it takes nothing new, or its time to end work is over."""


class RequestCancelledError(Exception):
    """Those for whom something was read were cancelled meanwhile."""


class TooManyError(InputError):
    """A request for more answers than may ever wait."""

    def __init__(self, answers: int, limit: int) -> None:
        super().__init__(
            f"the request is for {answers} answers (prompts times n), the server takes at most "
            f"{limit} at once; ask in several requests, or start it with a larger --max-waiting"
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
    """The time to end work is over, and this work was taken: it may have had its effect."""


class PromptTooLongError(InputError):
    """A prompt that can never fit.

    Attributes:
        tokens: of the prompt.
        limit: tokens that a prompt and its answer may have together.
    """

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"the prompt has {tokens} tokens, the server takes {limit} with the answer; "
            "shorten it, or start the server with a larger --max-model-len"
        )
        self.tokens = tokens
        self.limit = limit
