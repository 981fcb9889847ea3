"""Retrieval of passages for a question, with optional reranking by the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from gritlm.errors import InputError, choice
from gritlm.lm.gritlm import GritLM
from gritlm.lm.hub.model_config import FusionSettings
from gritlm.lm.kv.block import KVBlock
from gritlm.prompts import gritlm_instruction
from gritlm.rag.cooperative import Checkpoint
from gritlm.rag.fusion import Fusion
from gritlm.rag.index.index import Index
from gritlm.rag.plan import MOST_ROWS, PromptAssembler
from gritlm.rag.rerank import RERANK_METHODS, Reranker, RerankMethod
from gritlm.rag.reuse.blocks import BlockProvider
from gritlm.rag.types import Hit, Trace

Vector = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Search:
    """Settings of a search for passages.

    Attributes:
        top_k: number of passages.
        filter: ``{"name": value}`` of metadata, or a condition in SQL; None searches everything.
        hybrid: search by words too, fused with the vector search by reciprocal rank.
        rerank: number of candidates that the model itself puts in order; 0 for no reranking.
        rerank_method: ``likelihood`` ranks by the likelihood of the question after each
            passage, with the cosine as the model's calibration weighs it; ``yes-no`` asks the model
            whether each passage answers the question.
        whole: also read metadata of more than 32 KiB; ``LEFT_OUT`` replaces it otherwise.

    Raises:
        InputError: for a number out of range.
    """

    top_k: int = 3
    filter: str | Mapping[str, Any] | None = None
    hybrid: bool = False
    rerank: int = 0
    rerank_method: RerankMethod = "likelihood"
    whole: bool = True

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise InputError(f"top_k is {self.top_k}; expected 1 or more")
        if self.rerank < 0:
            raise InputError(f"rerank is {self.rerank}; expected 0 or more candidates")
        choice(self.rerank_method, RERANK_METHODS, name="rerank_method")


@dataclass(frozen=True)
class Query:
    """An embedded question.

    Attributes:
        question: the question.
        vector_D: its embedding (D,), which the search compares with those of passages.
        block: key/value block of the pass that embedded it.
        trace: tokens and times of its answer so far.
        started: arrival time of the question (``perf_counter``).
    """

    question: str
    vector_D: Vector
    block: KVBlock
    trace: Trace
    started: float


@contextmanager
def naming_question(number: int) -> Iterator[None]:
    """Add the number of a question to an error about it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"question {number} of the list: {error}") from None


class Retriever:
    """Embeds questions, searches the index, and reranks.

    Args:
        model: the model.
        index: passages and their embeddings.
        blocks: provider of KV blocks.
        assembler: lays out prompts for the model.
        causal: kind of the blocks that reranking reads.
    """

    def __init__(
        self,
        model: GritLM,
        index: Index,
        blocks: BlockProvider,
        assembler: PromptAssembler,
        *,
        causal: bool,
    ) -> None:
        self._model = model
        self._causal = causal
        self._index = index
        self._blocks = blocks
        self._assembler = assembler

    def found(
        self, question: str, search: Search, trace: Trace, checkpoint: Checkpoint | None = None
    ) -> tuple[list[Hit], KVBlock]:
        """Return the passages for a question, the best first, and the question's KV block.

        Args:
            question: the question.
            search: settings of the search.
            trace: takes tokens, times and warnings.
            checkpoint: checkpoint callback; None where no other work waits for the model.

        Raises:
            InputError: for a question longer than the model takes, or an unusable filter.
        """
        with trace.stage("embed"):
            vector_D, block = self.embedded(question, trace)
        hits = self.nearest(question, vector_D, search, trace)
        return self.ordered(question, hits, search, trace, checkpoint), block

    def nearest(self, question: str, vector_D: Vector, search: Search, trace: Trace) -> list[Hit]:
        """Return the passages nearest to an embedded question, the best first.

        The model is not used, so any thread may call it.

        Raises:
            InputError: for an unusable filter.
        """
        with trace.stage("search"):
            return self._index.search(
                vector_D,
                top_k=max(search.top_k, search.rerank),
                text=question,
                where=search.filter,
                hybrid=search.hybrid,
                whole=search.whole,
                warnings=trace.warnings,
            )

    def ordered(
        self,
        question: str,
        hits: list[Hit],
        search: Search,
        trace: Trace,
        checkpoint: Checkpoint | None = None,
    ) -> list[Hit]:
        """Return the best ``top_k`` passages, in the order of the model if reranking is on."""
        if search.rerank and hits:
            with trace.stage("rerank"):
                reranker = Reranker(self._model, self._blocks, self._assembler, causal=self._causal)
                ranked = reranker.ranked(
                    question, hits, checkpoint, trace, method=search.rerank_method
                )
                hits = [hit for hit, _ in ranked]
        return hits[: search.top_k]

    def embedded(self, question: str, trace: Trace) -> tuple[Vector, KVBlock]:
        """Return the embedding of a question (D,), and the KV block of the pass.

        Raises:
            InputError: for a question that is empty or longer than the model takes.
        """
        return self.embedded_together([question], [trace])[0]

    def queries(self, questions: Sequence[str], *, first: int) -> list[Query]:
        """Embed several questions in common batches.

        Args:
            questions: the questions.
            first: number of the first question in the list that they are from, for errors.

        Raises:
            InputError: for a question that is empty or longer than the model takes.
        """
        started = perf_counter()
        traces = [Trace() for _ in questions]
        for number, question in enumerate(questions, start=first):
            with naming_question(number):
                self.check(question)
        embedded = self.embedded_together(questions, traces)
        for trace in traces:
            trace.add("embed", perf_counter() - started)
        return [
            Query(question, *found, trace, started)
            for question, found, trace in zip(questions, embedded, traces, strict=True)
        ]

    def check(self, question: str) -> int:
        """Return the number of tokens of a question.

        Raises:
            InputError: for a question that is empty or longer than the model takes.
        """
        if not question.strip():
            raise InputError("the question is empty; expected some text")
        limit = self._model.lm.max_positions
        size = len(self._assembler.question_ids(question))
        if limit is not None and size > limit:
            raise InputError(f"the question has {size} tokens, the model takes {limit}; shorten it")
        return size

    def embedded_together(
        self, questions: Sequence[str], traces: Sequence[Trace]
    ) -> list[tuple[Vector, KVBlock]]:
        """Return embedding and KV block of each of several questions, as :meth:`embedded`.

        Raises:
            InputError: for a question that is empty or longer than the model takes.
        """
        sizes = [self.check(question) for question in questions]
        vectors_ND, blocks = self._model.encode(
            list(questions),
            instruction=gritlm_instruction(self._model.settings.query_instruction),
            get_cache=True,
            max_length=max(sizes),
            show_progress_bar=False,
        )
        # A block of another model takes another pass than the vector.
        passes = 1 if self._model.encoder.shares_pass else 2
        for trace, size in zip(traces, sizes, strict=True):
            trace.tokens_embedded += size * passes
        return [(np.asarray(row), block) for row, block in zip(vectors_ND, blocks, strict=True)]


def candidates(
    hits: Sequence[Hit], settings: FusionSettings | None, *, fusion: Fusion, margin: float | None
) -> list[Hit]:
    """Return the passages to read, the best first; at most ``MOST_ROWS``.

    The first one is always read: it may have been put there by words or by reranking.

    Args:
        hits: passages, the best first.
        settings: calibration of the model; None without one: ``sequence`` reads the first passage.
        fusion: ``sequence`` or ``token``.
        margin: largest distance of a cosine from the best one; None for that of the calibration.
    """
    if fusion == "sequence" and settings is None:
        return list(hits[:1])
    if margin is None:
        margin = settings.margin if settings is not None else float("inf")
    best = max(hit.score for hit in hits)
    near = [hit for hit in hits[1:] if hit.score >= best - margin]
    return [hits[0], *near][:MOST_ROWS]
