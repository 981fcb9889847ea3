"""Answers from documents: sources, prefilled prompts, and the text as a whole or in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from torch import Tensor
from transformers.cache_utils import Cache

from gritlm.lm.generator import TextStream, answer_room, decode, prefix_cache
from gritlm.lm.gritlm import GritLM
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.kv.cache import is_preallocated
from gritlm.lm.sampling import SamplingParams
from gritlm.rag.cooperative import Checkpoint
from gritlm.rag.options import AnswerOptions
from gritlm.rag.plan import PromptPlan
from gritlm.rag.reuse.recompute import read_behind
from gritlm.rag.trace import Trace
from gritlm.rag.types import Hit


@dataclass(frozen=True)
class Source:
    """A passage in the prompt of an answer.

    Attributes:
        id: id of the passage.
        document_id: id of its document.
        title: title of its document.
        text: text of the passage.
        start: offset of its first character in the text of its document.
        end: offset behind its last character.
        score: cosine of question and passage, also where the words were found.
        also_in: ids of other documents that hold a passage of the same text.
    """

    id: str
    document_id: str
    title: str
    text: str
    start: int
    end: int
    score: float
    also_in: tuple[str, ...] = ()

    @staticmethod
    def of(hit: Hit) -> Source:
        """Return the source of a hit."""
        passage = hit.passage
        return Source(
            id=passage.id,
            document_id=passage.document_id,
            title=passage.title,
            text=passage.text,
            start=passage.start,
            end=passage.end,
            score=hit.score,
            also_in=hit.also_in,
        )


@dataclass(frozen=True)
class Answer:
    """An answer from documents.

    Attributes:
        text: the answer.
        sources: the passages in its prompt, the best first.
        trace: tokens, bytes and milliseconds of every stage.
    """

    text: str
    sources: tuple[Source, ...]
    trace: Trace


class AnswerStream:
    """Iterator over the pieces of an answer.

    Args:
        pieces: pieces of the text, as they become certain.
        sources: the passages in the prompt, the best first; known before the first piece.
        trace: tokens, bytes and milliseconds so far; complete after the last piece.
    """

    def __init__(self, pieces: Iterator[str], sources: Sequence[Source], trace: Trace) -> None:
        self._pieces = pieces
        self._text = ""
        self.sources = tuple(sources)
        self.trace = trace

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            self._text += piece
            yield piece

    @property
    def answer(self) -> Answer:
        """The answer up to the last piece that was returned."""
        return Answer(self._text, self.sources, self.trace)

    def whole(self) -> Answer:
        """Return the answer after reading the stream to its end."""
        for _ in self:
            continue
        return self.answer


@dataclass(frozen=True)
class PrefilledPrompt:
    """The state of a model after a prompt.

    Attributes:
        cache: key/value state of the prompt, with room for the answer.
        logits_V: logits of the first token of the answer (V,).
        room: number of tokens that may follow.
        reused: number of prompt tokens that came from stored blocks.
    """

    cache: Cache
    logits_V: Tensor
    room: int
    reused: int = 0


@dataclass(frozen=True)
class PreparedAnswer:
    """An answer right before its first token.

    Attributes:
        prompt: state of the model after the prompt.
        sources: the passages in the prompt, the best first.
        trace: tokens, bytes and milliseconds so far.
        started: arrival time of the question (``perf_counter``).
    """

    prompt: PrefilledPrompt
    sources: tuple[Source, ...]
    trace: Trace
    started: float


def prefill(
    model: GritLM,
    plan: PromptPlan,
    blocks: Sequence[KVBlock],
    options: AnswerOptions,
    trace: Trace,
    checkpoint: Checkpoint | None = None,
) -> PrefilledPrompt:
    """Join the blocks of a prompt in one cache and prefill the remaining tokens.

    Args:
        model: the model that made the blocks.
        plan: the prompt.
        blocks: key/value blocks of ``plan.parts``, in order.
        options: length of the answer, and the tokens that are recomputed.
        trace: takes tokens and times.
        checkpoint: checkpoint callback; None where no other work waits for the model.

    Returns:
        The state of the model after the prompt.

    Raises:
        InputError: when the prompt leaves no room for an answer.
    """
    lm = model.lm
    room = answer_room(lm, plan.tokens, options.sampling.max_new_tokens)
    for name, tokens in plan.read:
        trace.part(name, tokens=tokens, tier="read")
    with trace.stage("move"):
        cache = prefix_cache(lm, blocks, room=len(plan.ids) + room)
    with trace.stage("prefill"):
        recompute = options.recompute if blocks else None
        if recompute is not None and not is_preallocated(cache):
            trace.reasons.append(
                "no tokens recomputed: the cache of this model does not support it"
            )
            recompute = None
        logits_V, again = read_behind(lm, cache, blocks, plan.ids, recompute, checkpoint)
    trace.tokens_recomputed = again.tokens
    trace.tokens_selecting = again.selecting
    return PrefilledPrompt(cache, logits_V, room, trace.tokens_reused)


def generate(model: GritLM, prepared: PreparedAnswer, sampling: SamplingParams) -> Iterator[str]:
    """Yield the pieces of an answer as they become certain.

    Args:
        model: the model that prefilled the prompt.
        prepared: the answer; its trace takes the number of tokens and the times.
        sampling: settings of the answer; its length is settled already.
    """
    prompt = prepared.prompt
    trace = prepared.trace
    tokens = decode(
        model.lm,
        prompt.cache,
        prompt.logits_V,
        sampler=sampling.sampler(),
        room=prompt.room,
        end_ids=model.end_ids,
    )

    def since_start() -> float:
        return 1000 * (perf_counter() - prepared.started)

    def count_tokens() -> Iterator[int]:
        for token in tokens:
            if not trace.tokens_generated:
                trace.milliseconds["first_token"] = since_start()
            trace.tokens_generated += 1
            yield token

    started = perf_counter()
    yield from TextStream(model.tokenizer, sampling.stop).pieces(count_tokens())
    trace.milliseconds.setdefault("first_token", since_start())
    trace.add("decode", perf_counter() - started)
