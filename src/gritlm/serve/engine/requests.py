"""What is asked of the thread that owns the model, and what it hands back.

Shapes: N texts, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gritlm.lm.sampling import SamplingParams
from gritlm.lm.tokens import Prompt

if TYPE_CHECKING:
    from gritlm.rag.answer import PrefilledPrompt

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class GenerateRequest:
    """A prompt to answer.

    Attributes:
        ids: of the prompt; never empty.
    """

    ids: tuple[int, ...]
    sampling: SamplingParams


@dataclass(frozen=True)
class ResumeRequest:
    """An answer whose prompt is read by somebody else on the model's thread, such as the engine of
    cached RAG.

    Attributes:
        begin: reads the prompt and returns its state; it may raise what the client is told. It is
            handed ``between``, as :class:`ModelJob` is.
        tokens: of the prompt, at most; for admission.
    """

    begin: Callable[[Callable[[], None]], PrefilledPrompt]
    tokens: int
    sampling: SamplingParams


@dataclass(frozen=True)
class EmbedRequest:
    """Texts to embed, tokenized already: they give one (N, D) array of float32."""

    prompts: tuple[Prompt, ...]

    @property
    def tokens(self) -> int:
        return sum(len(prompt.ids) for prompt in self.prompts)


@dataclass(frozen=True)
class ModelJob:
    """Anything else that needs the model: it runs between two steps, alone.

    Attributes:
        run: is handed ``between``, which it calls now and then in long work, holding no lock:
            chats and embeddings go on there. It raises when the work is to end because nobody
            wants it, or the server shuts down.
        tokens: that it reads, about; for admission.
        beside: short, and takes no lock of other work: it may run where that lets others go on.
    """

    run: Callable[[Callable[[], None]], object]
    tokens: int = 0
    beside: bool = False


@dataclass(frozen=True)
class TokenLogprob:
    """A token of an answer with its natural log-probability, and the likeliest ones there."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class OutputDelta:
    """What one step added to an answer.

    Attributes:
        text: what became certain; may be empty.
        tokens: that this step wrote, the end token not among them.
        finish_reason: given with the last piece.
    """

    text: str
    tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class PrefillFinished:
    """A prompt was read: its tokens, and how many of them were in a slot already."""

    prompt_tokens: int
    cached_tokens: int


EngineRequest = GenerateRequest | ResumeRequest | EmbedRequest | ModelJob


@dataclass(frozen=True)
class RequestFinished:
    """What ToEmbed or ToDo came to; nothing follows."""

    value: Any


@dataclass(frozen=True)
class RequestFailed:
    """Why a request ended without what it asked for; nothing follows."""

    error: Exception


EngineEvent = PrefillFinished | OutputDelta | RequestFinished | RequestFailed
