"""Answers from documents: their sources, and the text as a whole or in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from gritlm.lm.generator import DecodePass, TextStream, decode, decode_pass
from gritlm.lm.gritlm import GritLM
from gritlm.lm.sampling import SamplingParams
from gritlm.rag.fusion import PassageScore
from gritlm.rag.prefill import PrefilledPrompt, ReadPassages
from gritlm.rag.types import Hit, MediaPlace, Trace


@dataclass(frozen=True)
class Source:
    """A passage that was read for an answer.

    Attributes:
        id: id of the passage.
        document_id: id of its document.
        title: title of its document.
        text: text of the passage.
        start: offset of its first character in the text of its document.
        end: offset behind its last character.
        score: cosine of question and passage, also where the words were found.
        also_in: ids of other documents that hold a passage of the same text.
        used: whether the answer comes from this passage; False for a passage that was read alone
            and scored lower.
        likelihood: mean log-probability of the question behind the passage; None where it was not
            needed.
        media: page or time of a passage that is an image or a sound; None for text.
        page: number of the page on which the passage begins; None where no page is known.
    """

    id: str
    document_id: str
    title: str
    text: str
    start: int
    end: int
    score: float
    also_in: tuple[str, ...] = ()
    used: bool = True
    likelihood: float | None = None
    media: MediaPlace | None = None
    page: int | None = None

    @staticmethod
    def of(hit: Hit, score: PassageScore | None = None, *, used: bool = True) -> Source:
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
            used=used,
            likelihood=None if score is None else score.likelihood,
            media=passage.media,
            page=passage.page,
        )


def sources_of(read: ReadPassages) -> tuple[Source, ...]:
    """Return the sources of an answer, the best first."""
    scores = read.scores or (None,) * len(read.hits)
    return tuple(
        Source.of(hit, score, used=number < read.used)
        for number, (hit, score) in enumerate(zip(read.hits, scores, strict=True))
    )


@dataclass(frozen=True)
class Answer:
    """An answer from documents.

    Attributes:
        text: the answer.
        sources: the passages that were read for it, the best first.
        trace: tokens, bytes and milliseconds of every stage.
    """

    text: str
    sources: tuple[Source, ...]
    trace: Trace

    @property
    def supported(self) -> bool | None:
        """Whether the passages seem to hold the answer; None where this was not judged."""
        return self.trace.supported


class AnswerStream:
    """Iterator over the pieces of an answer.

    Args:
        pieces: pieces of the text, as they become certain.
        sources: the passages that were read, the best first; known before the first piece.
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
class PreparedAnswer:
    """An answer right before its first token.

    Attributes:
        prompt: state of the model after the prompt.
        sources: the passages that were read, the best first.
        trace: tokens, bytes and milliseconds so far.
        started: arrival time of the question (``perf_counter``).
    """

    prompt: PrefilledPrompt
    sources: tuple[Source, ...]
    trace: Trace
    started: float


def generate(model: GritLM, prepared: PreparedAnswer, sampling: SamplingParams) -> Iterator[str]:
    """Yield the pieces of an answer as they become certain.

    Args:
        model: the model that prefilled the prompt.
        prepared: the answer; its trace takes the number of tokens and the times.
        sampling: settings of the answer; its length is settled already.
    """
    prompt = prepared.prompt
    trace = prepared.trace
    sampling.check(model.lm.vocabulary_size)
    end_ids = sampling.all_end_ids(model.end_ids)
    tokens = decode(
        _decode_pass(model, prompt, sampling),
        prompt.logits_V,
        sampler=sampling.sampler(end_ids=end_ids),
        room=prompt.room,
        end_ids=end_ids,
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
    stream = TextStream.of(model.tokenizer, sampling)
    yield from stream.pieces(count_tokens())
    trace.milliseconds.setdefault("first_token", since_start())
    trace.add("decode", perf_counter() - started)


def _decode_pass(model: GritLM, prompt: PrefilledPrompt, sampling: SamplingParams) -> DecodePass:
    mixed = prompt.mixed
    if mixed is not None:
        return lambda drawn, _: ([], mixed.step(drawn[-1])[None])
    return decode_pass(model.lm, prompt.cache, sampling.lookup(prompt.ids))
