"""Token counts of training examples before truncation, and their prompts after it."""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass, replace
from reprlib import repr as short

import numpy as np

from gritlm.errors import InputError
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.tokens import Prompt, SegmentTokenizer
from gritlm.prompts import gritlm_instruction
from gritlm.train.config import DataConfig, RagConfig
from gritlm.train.data import rag_samples
from gritlm.train.data.collate import Collator
from gritlm.train.data.examples import (
    ChatExample,
    EmbeddingExample,
    InstructedText,
    RagExample,
    Row,
    ScoredExample,
)
from gritlm.train.data.media.stand_ins import with_stand_ins


@dataclass(frozen=True)
class Lengths:
    """Statistics of the token counts of one kind of text, header and end included.

    Attributes:
        what: ``query``, ``passage``, ``conversation`` or ``sample`` (of a RAG row).
        limit: maximum length in training, in tokens.
        count: number of texts.
        median: median length in tokens.
        p95: 95th percentile of the length in tokens.
        longest: length of the longest text in tokens.
        cut: number of texts over the limit.
    """

    what: str
    limit: int
    count: int
    median: int
    p95: int
    longest: int
    cut: int


class LengthCounter:
    """Counter of tokens; it makes prompts with the functions that training uses.

    Attributes:
        data: settings with the maximum lengths.
    """

    def __init__(self, tokens: SegmentTokenizer, settings: ModelSettings, data: DataConfig) -> None:
        self._tokens = tokens
        self._settings = settings
        self.data = data
        self._truncating = Collator(tokens, settings, data)
        self._untruncated = Collator(
            tokens, settings, replace(data, generative_max_len=sys.maxsize)
        )
        self._sizes: dict[tuple[str, int], array[int]] = {}

    def prompts(self, row: Row) -> dict[str, Prompt]:
        """Return the prompts of a row by name; empty if no token in the loss is left.

        A text stands in the place of each image and sound, whose tokens are not counted.

        Raises:
            InputError: a text has no tokens, its instruction leaves no room for it, or an image or
                a sound is broken.
        """
        row = with_stand_ins(row)
        if isinstance(row, EmbeddingExample):
            return self._embedding(row)
        if isinstance(row, ScoredExample):
            return self._scored(row)
        return self._chat(row) if isinstance(row, ChatExample) else self._rag(row)

    def lengths(self) -> tuple[Lengths, ...]:
        """Return the statistics of all rows so far."""
        return tuple(_summary(*name, sizes) for name, sizes in self._sizes.items())

    def _embedding(self, row: EmbeddingExample) -> dict[str, Prompt]:
        limit = self.data.passage_max_len
        query = self._embedded("query", row.query, self.data.query_max_len)
        positives = [self._embedded("passage", text, limit) for text in row.positives]
        negatives = [self._embedded("passage", text, limit) for text in row.negatives]
        shown = {"query": query, "positive": positives[0]}
        return shown | ({"negative": negatives[0]} if negatives else {})

    def _scored(self, row: ScoredExample) -> dict[str, Prompt]:
        return {
            "first text": self._embedded("query", row.first, self.data.query_max_len),
            "second text": self._embedded("passage", row.second, self.data.passage_max_len),
        }

    def _embedded(self, what: str, text: InstructedText, limit: int) -> Prompt:
        def build(max_length: int) -> Prompt:
            (prompt,), _ = self._tokens.for_embedding(
                [text.text],
                max_length=max_length,
                instruction=gritlm_instruction(text.instruction),
                end=self._settings.embed_eos,
            )
            return prompt

        try:
            whole = build(sys.maxsize)
        except InputError:
            raise InputError(f"{what} {short(text.text)} has no tokens; leave it out") from None
        try:
            return build(limit) if self._is_longer(whole, what, limit) else whole
        except InputError:
            raise InputError(
                f"{what} {short(text.text)} has no room: its instruction takes {whole.pooled[0]} "
                f"tokens, {what}_max_len is {limit}; shorten it or raise {what}_max_len"
            ) from None

    def _chat(self, row: ChatExample) -> dict[str, Prompt]:
        what = "conversation"
        limit = self.data.generative_max_len
        prompt = self._untruncated.chat(row)
        if prompt is not None and self._is_longer(prompt, what, limit):
            prompt = self._truncating.chat(row)
        return {} if prompt is None else {what: prompt}

    def _rag(self, row: RagExample) -> dict[str, Prompt]:
        """Return the longest sample of a RAG row: most documents, the gold one last."""
        what = "sample"
        limit = self.data.generative_max_len
        gold, *others = row.documents
        documents = [*others[: RagConfig().max_documents - 1], gold]
        form = rag_samples.SampleForm("none", "causal", embed_eos=self._settings.embed_eos)

        def build(max_length: int) -> Prompt | None:
            return rag_samples.sample(
                self._tokens, row, form, documents=documents, max_length=max_length
            )

        prompt = build(sys.maxsize)
        if prompt is not None and self._is_longer(prompt, what, limit):
            prompt = build(limit)
        return {} if prompt is None else {what: prompt}

    def _is_longer(self, whole: Prompt, what: str, limit: int) -> bool:
        """Record the length of a prompt; return whether it is over the limit."""
        self._sizes.setdefault((what, limit), array("L")).append(len(whole.ids))
        return len(whole.ids) > limit


def _summary(what: str, limit: int, sizes: array[int]) -> Lengths:
    size_N = np.array(sizes)
    return Lengths(
        what,
        limit,
        count=len(size_N),
        median=int(np.median(size_N)),
        p95=int(np.percentile(size_N, 95, method="higher")),
        longest=int(size_N.max()),
        cut=int((size_N > limit).sum()),
    )
