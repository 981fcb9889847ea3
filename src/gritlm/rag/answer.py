"""Plan -> key/value state and ids -> answer, as a whole or piece by piece."""

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
from gritlm.lm.sampling import make_sampler
from gritlm.rag.cooperative import Checkpoint
from gritlm.rag.plan import PromptPlan
from gritlm.rag.reuse.recompute import FIRST, Recompute, read_behind
from gritlm.rag.trace import Trace
from gritlm.rag.types import Hit


@dataclass(frozen=True)
class Writing:
    """How an answer is written.

    Attributes:
        max_new_tokens: most tokens of it.
        temperature, top_p, seed, stop: as in :meth:`gritlm.GritLM.chat`.
        recompute: tokens of the blocks that are read again; None for none. The usual ones, the
            first 16 of each block but the first, are those that training reads again, and change
            nothing for a single document. What they are worth: docs/log.md.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    recompute: Recompute | None = FIRST


@dataclass(frozen=True)
class Source:
    """A passage that was read before the answer.

    Attributes:
        score: cosine of question and passage, also where its words were what was found.
        start: first character of the passage in the text of its document.
        end: the character behind its last one.
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
        """The source that a hit is."""
        p = hit.passage
        return Source(
            id=p.id,
            document_id=p.document_id,
            title=p.title,
            text=p.text,
            start=p.start,
            end=p.end,
            score=hit.score,
            also_in=hit.also_in,
        )


@dataclass(frozen=True)
class Answer:
    """What was answered, from what, and what it took; the best source first."""

    text: str
    sources: tuple[Source, ...]
    trace: Trace


class AnswerStream:
    """Pieces of an answer; ``sources`` are known at once, ``answer`` when it has ended."""

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
        """What has come so far, as a whole."""
        return Answer(self._text, self.sources, self.trace)

    def whole(self) -> Answer:
        """The answer, read to its end."""
        for _ in self:
            continue
        return self.answer


@dataclass(frozen=True)
class PrefilledPrompt:
    """A prompt that was read: its state, what comes next, and how much may follow.

    Attributes:
        reused: tokens whose state was there already.
    """

    cache: Cache
    logits_V: Tensor
    room: int
    reused: int = 0


def begin(
    model: GritLM,
    plan: PromptPlan,
    blocks: Sequence[KVBlock],
    writing: Writing,
    trace: Trace,
    checkpoint: Checkpoint | None = None,
) -> PrefilledPrompt:
    """Place the blocks, read what is not in them.

    Args:
        checkpoint: called now and then, for who shares the model's thread.

    Raises:
        InputError: when the prompt leaves no room for an answer.
    """
    lm = model.lm
    room = answer_room(lm, plan.tokens, writing.max_new_tokens)
    for name, tokens in plan.read:
        trace.part(name, tokens=tokens, tier="read")
    with trace.stage("move"):
        cache = prefix_cache(lm, blocks, room=len(plan.ids) + room)
    with trace.stage("prefill"):
        how = writing.recompute if blocks else None
        if how is not None and not is_preallocated(cache):
            trace.reasons.append("no tokens read again: the cache of this model does not take them")
            how = None
        logits_V, again = read_behind(lm, cache, blocks, plan.ids, how, checkpoint)
    trace.tokens_recomputed = again.tokens
    trace.tokens_selecting = again.selecting
    return PrefilledPrompt(cache, logits_V, room, trace.tokens_reused)


def pieces(
    model: GritLM, begun: PrefilledPrompt, writing: Writing, trace: Trace, *, started: float
) -> Iterator[str]:
    """The answer's text as it becomes certain.

    Args:
        started: when the question came (``perf_counter``).
    """
    sampler = make_sampler(
        temperature=writing.temperature, top_p=writing.top_p, top_k=0, seed=writing.seed
    )
    tokens = decode(
        model.lm,
        begun.cache,
        begun.logits_V,
        sampler=sampler,
        room=begun.room,
        end_ids=model.end_ids,
    )

    def counted() -> Iterator[int]:
        for token in tokens:
            if not trace.tokens_generated:
                trace.milliseconds["first_token"] = 1000 * (perf_counter() - started)
            trace.tokens_generated += 1
            yield token

    begun_at = perf_counter()
    yield from TextStream(model.tokenizer, writing.stop).pieces(counted())
    trace.milliseconds.setdefault("first_token", 1000 * (perf_counter() - started))
    trace.add("decode", perf_counter() - begun_at)
