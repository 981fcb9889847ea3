"""Requests to the engine and the events that it sends back.

Shapes: N texts, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gritlm.lm.gritlm import GritLM
from gritlm.lm.media.senses import MediaTokens
from gritlm.lm.sampling import SamplingParams
from gritlm.lm.tokens import Prompt

if TYPE_CHECKING:
    from gritlm.rag.prefill import PrefilledPrompt

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class GenerateRequest:
    """A prompt to continue.

    Attributes:
        ids: token ids of the prompt; never empty. Negative ones are placeholders of ``media``.
        sampling: how tokens are drawn and when the sequence ends.
        prompt_logprobs: whether the output begins with the log-probabilities of the prompt's
            tokens, as many for each as ``sampling.logprobs``, and ends with those of the end token.
            No tokens of a KV slot are reused, and ``max_new_tokens`` may be 0.
        model: model that generates, over the same base in memory as that of the engine; None for
            the model of the engine.
        owner: owner of the request; only tokens in the KV slots of its own requests are reused.
        media: images and sounds of the prompt. Each is prefilled in one pass.
    """

    ids: tuple[int, ...]
    sampling: SamplingParams
    prompt_logprobs: bool = False
    model: GritLM | None = None
    owner: str = ""
    media: tuple[MediaTokens, ...] = ()

    @property
    def reusable_ids(self) -> tuple[int, ...]:
        """Prompt tokens whose keys and values may be in a KV slot already.

        The last token is never reused, so no image may end with it.
        """
        return () if self.prompt_logprobs or self.ids[-1] < 0 else self.ids


@dataclass(frozen=True)
class JointRun:
    """Passes of the model that several requests can share.

    Attributes:
        run: does the work of several requests, from their items, and returns the result of each.
            Requests with the same function can share passes. When it raises an error, each request
            is run alone.
        item: the work of the request, as ``run`` takes it.
        rows: number of rows of the request in a pass.
        tokens: number of tokens that are read in each row.
    """

    run: Callable[[Sequence[Any], Callable[[], None]], Sequence[Any]]
    item: Any
    rows: int
    tokens: int


@dataclass(frozen=True)
class ResumeRequest:
    """A sequence whose prompt is prefilled by other code on the model's thread, such as the engine
    of cached RAG.

    Attributes:
        begin: prefills the prompt and returns its KV state. It gets the checkpoint callback, as
            :attr:`ModelJob.run` does; the client receives the error that it raises.
        tokens: most tokens of the prompt, for admission.
        sampling: how tokens are drawn and when the sequence ends.
        rows: number of rows that generate the text together; each takes a KV slot.
        model: model that prefilled the prompt, as in :class:`GenerateRequest`.
        joint: prefill together with other requests; None for a prompt that is prefilled alone.
    """

    begin: Callable[[Callable[[], None]], PrefilledPrompt]
    tokens: int
    sampling: SamplingParams
    rows: int = 1
    model: GritLM | None = None
    joint: JointRun | None = None


@dataclass(frozen=True)
class EmbedRequest:
    """Tokenized texts to embed; the result is one (N, D) array of float32.

    Attributes:
        prompts: the texts.
        model: model that embeds, as in :class:`GenerateRequest`.
    """

    prompts: tuple[Prompt, ...]
    model: GritLM | None = None


@dataclass(frozen=True)
class ModelJob:
    """Any other work that needs the model; it runs alone between two engine steps.

    Attributes:
        run: the work. It gets the checkpoint callback and calls it now and then while it holds no
            lock; sequences and embeddings go on there. The callback raises when the request was
            cancelled or the server shuts down.
        tokens: estimated tokens that the model reads, for admission.
        nested: True for short work that takes no lock of other work: it may run inside the
            checkpoint of a longer job.
        joint: the work together with that of other jobs; None for a job that runs alone.
    """

    run: Callable[[Callable[[], None]], object]
    tokens: int = 0
    nested: bool = False
    joint: JointRun | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """A token with its natural log-probability, and the likeliest tokens there.

    The first token of a prompt, which follows no other, has None.
    """

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class OutputDelta:
    """The output that one decode step added to a sequence.

    Attributes:
        text: text that is final from now on; may be empty.
        tokens: tokens generated by this step, without the end token.
        logprobs: log-probabilities of the tokens whose text is final now.
        finish_reason: set in the last delta only.
        stop_reason: the stop string or stop token of the request that ended the sequence; None if
            it ended otherwise.
    """

    text: str
    tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


@dataclass(frozen=True)
class PrefillFinished:
    """The end of a prefill: tokens of the prompt, and how many of them a KV slot held already."""

    prompt_tokens: int
    cached_tokens: int


EngineRequest = GenerateRequest | ResumeRequest | EmbedRequest | ModelJob


@dataclass(frozen=True)
class RequestFinished:
    """The result of an ``EmbedRequest`` or a ``ModelJob``; the last event of the request."""

    value: Any


@dataclass(frozen=True)
class RequestFailed:
    """The error that ended a request; the last event of the request."""

    error: Exception


EngineEvent = PrefillFinished | OutputDelta | RequestFinished | RequestFailed
