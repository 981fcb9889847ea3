"""Collator: examples to batches of prompts, with keys that identify false negatives.

Shapes: Q queries, P passages, M maximum number of positives of a row; N scored pairs.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gritlm.errors import InputError
from gritlm.lm.chat import conversation
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.media.files import LOCAL
from gritlm.lm.media.media_chat import conversation_prompt
from gritlm.lm.media.media_prompts import embedding_prompt
from gritlm.lm.media.senses import Senses
from gritlm.lm.tokens import Prompt, SegmentTokenizer
from gritlm.prompts import gritlm_instruction
from gritlm.train.config import DataConfig, RagConfig
from gritlm.train.data import rag_samples
from gritlm.train.data.examples import (
    ChatExample,
    EmbeddingExample,
    InstructedText,
    RagExample,
    Row,
    ScoredExample,
)
from gritlm.train.data.rag_samples import Blocked

_MOST_POSITIVES = 16
_PADDING = 0
_ENCLOSING = " .,;:!?\"'“”‘’"


@dataclass(frozen=True)
class Keys:
    """Keys of texts: integers that are equal for (nearly) equal texts; see :func:`key`.

    Attributes:
        query_Q, passage_P: keys of queries and passages.
        positive_QM: keys of all positives of a query's row, padded with 0.
        owner_P: key of the query whose row has the passage.
        first_P: whether a passage is the positive of its query.
    """

    query_Q: Tensor
    passage_P: Tensor
    positive_QM: Tensor
    owner_P: Tensor
    first_P: Tensor

    def false_negatives(self) -> Tensor:
        """Return the mask (Q, P) of passages that answer the query and must not be negatives."""
        equal_QP = (self.positive_QM[:, :, None] == self.passage_P).any(dim=1)
        same_query_QP = self.query_Q[:, None] == self.owner_P
        return equal_QP | (same_query_QP & self.first_P)


@dataclass(frozen=True)
class QueryPassageBatch:
    """Prompts and texts of a batch to embed: queries and passages."""

    queries: list[Prompt]
    passages: list[Prompt]
    query_texts: list[str]
    passage_texts: list[str]

    @property
    def tokens(self) -> int:
        return sum(len(prompt.ids) for prompt in (*self.queries, *self.passages))


@dataclass(frozen=True)
class EmbeddingBatch(QueryPassageBatch):
    """Queries and passages, grouped by query; the positive is the first passage of its group.

    Attributes:
        keys: keys of the texts, to find false negatives.
    """

    keys: Keys


@dataclass(frozen=True)
class ScoredBatch(QueryPassageBatch):
    """The first texts of scored pairs as queries, the second ones as passages, in one order.

    Attributes:
        score_N: scores of the pairs; float64, so that different scores stay different.
    """

    score_N: Tensor


class Collator:
    """Conversion of examples to batches with one tokenizer and one set of maximum lengths.

    Args:
        tokens: the tokenizer.
        settings: how the model embeds and chats.
        data: maximum lengths and group sizes.
        rag: conversion of RAG rows; None for the defaults.
        senses: towers of the model; None for a model that reads text only.
    """

    def __init__(
        self,
        tokens: SegmentTokenizer,
        settings: ModelSettings,
        data: DataConfig,
        rag: RagConfig | None = None,
        senses: Senses | None = None,
    ) -> None:
        self.tokens = tokens
        self.senses = senses
        self.settings = settings
        self.data = data
        self.rag = rag or RagConfig()
        self._checked_instructions: set[tuple[str, str]] = (
            set()
        )  # (instruction, setting of the length) already checked
        self._checked_roles: set[tuple[str, ...]] = (
            set()
        )  # sequences of roles that the chat template accepts

    def embedding(
        self, rows: Sequence[EmbeddingExample], draws: Sequence[random.Random]
    ) -> EmbeddingBatch:
        """Return a batch with one random positive and random negatives of each row.

        Args:
            rows: the examples.
            draws: random number generator of each row.

        Raises:
            InputError: an instruction leaves no room for its text.
        """
        size = self.data.train_group_size
        groups = [_group(row, size, draw) for row, draw in zip(rows, draws, strict=True)]
        sides = self._sides(
            [row.query for row in rows], [text for group in groups for text in group]
        )
        return EmbeddingBatch(**sides, keys=_keys(rows, groups))

    def question_group(self, row: EmbeddingExample, draw: random.Random) -> tuple[Blocked, ...]:
        """Return a question after its positive, and after each of a few hard negatives.

        Args:
            row: the example; its query is the question.
            draw: random number generator of the row.

        Returns:
            The samples, that of the positive first; empty without a negative, or if one of them
            exceeds ``generative_max_len``.
        """
        group = _group(row, self.rag.question_passages, draw)
        kind = draw.choice(self.rag.blocks)
        limit = self.data.generative_max_len
        samples = [
            rag_samples.question_sample(
                self.tokens, row.query.text, passage, kind=kind, max_length=limit
            )
            for passage in self._prompts(group, self.data.passage_max_len, "passage_max_len")
        ]
        found = tuple(sample for sample in samples if sample is not None)
        return found if len(found) == len(samples) > 1 else ()

    def scored(self, rows: Sequence[ScoredExample]) -> ScoredBatch:
        """Return a batch of scored pairs.

        Raises:
            InputError: an instruction leaves no room for its text.
        """
        sides = self._sides([row.first for row in rows], [row.second for row in rows])
        scores = [row.score for row in rows]
        return ScoredBatch(**sides, score_N=torch.tensor(scores, dtype=torch.float64))

    def _sides(
        self, queries: Sequence[InstructedText], passages: Sequence[InstructedText]
    ) -> dict[str, Any]:
        """Return the fields of :class:`QueryPassageBatch`."""
        return {
            "queries": self._prompts(queries, self.data.query_max_len, "query_max_len"),
            "passages": self._prompts(passages, self.data.passage_max_len, "passage_max_len"),
            "query_texts": [text.text for text in queries],
            "passage_texts": [text.text for text in passages],
        }

    def require_usable(self, row: Row, *, reads_media: bool | None = None) -> None:
        """Raise an error for a row that cannot be tokenised.

        Each instruction and each sequence of roles is tried only once.

        Args:
            row: the example.
            reads_media: whether images and sounds are decoded; None: as ``check_media`` sets it.

        Raises:
            InputError: an instruction leaves no room for a text, a text has no tokens, the chat
                template of the tokenizer refuses a conversation, or an image or a sound is broken,
                too long, or not read by the model.
        """
        decodes = self.data.check_media if reads_media is None else reads_media
        decodes = decodes or self.senses is None
        if isinstance(row, EmbeddingExample):
            self._require_tokens(row.query, "query_max_len", decodes=decodes)
            for text in (*row.positives, *row.negatives):
                self._require_tokens(text, "passage_max_len", decodes=decodes)
        elif isinstance(row, ScoredExample):
            self._require_tokens(row.first, "query_max_len", decodes=decodes)
            self._require_tokens(row.second, "passage_max_len", decodes=decodes)
        elif isinstance(row, ChatExample):
            self._require_template(row, decodes=decodes)

    def _require_tokens(self, text: InstructedText, name: str, *, decodes: bool) -> None:
        limit = getattr(self.data, name)
        if text.parts:
            if decodes:
                self._media_prompt(text, limit, name)
            return
        if (text.instruction, name) not in self._checked_instructions:
            self._prompts([InstructedText("a", text.instruction)], limit, name)
            self._checked_instructions.add((text.instruction, name))
        if not any(
            character.isalnum() for character in text.text
        ):  # the tokenizer may drop other characters
            self._prompts([text], limit, name)

    def _require_template(self, row: ChatExample, *, decodes: bool) -> None:
        roles = tuple(turn["role"] for turn in row.messages)
        if row.has_media:
            if decodes:
                self.chat(row)
            return
        if self.settings.template == "tokenizer" and roles not in self._checked_roles:
            self.chat(row)
            self._checked_roles.add(roles)

    def sample(self, row: ChatExample | RagExample, draw: random.Random) -> Prompt | None:
        """Return a generative sample; None if truncation leaves no token in the loss.

        Args:
            row: the example.
            draw: random number generator, for RAG rows.
        """
        if isinstance(row, ChatExample):
            return self.chat(row)
        mode, kind, documents = rag_samples.draw(row, self.rag, draw)
        form = rag_samples.SampleForm(
            mode,
            kind,
            query_instruction=self.settings.query_instruction,
            embed_eos=self.settings.embed_eos,
            read_again=self.rag.read_again,
        )
        max_length = self.data.generative_max_len
        return rag_samples.sample(
            self.tokens, row, form, documents=documents, max_length=max_length
        )

    def chat(self, row: ChatExample) -> Prompt | None:
        """Return the conversation, truncated to ``generative_max_len`` tokens.

        The first token is never in the loss: it has no context.

        Returns:
            The prompt; None if truncation leaves no token in the loss.

        Raises:
            InputError: the chat template of the tokenizer refuses the conversation.
        """
        whole = self._conversation(row)
        limit = self.data.generative_max_len
        spans = [(start, min(end, limit)) for start, end in whole.trained if start < limit]
        if not any(end > max(1, start) for start, end in spans):
            return None
        return Prompt(whole.ids[:limit], trained=tuple(spans), media=whole.media)

    def _conversation(self, row: ChatExample) -> Prompt:
        """Return the whole conversation; its images and sounds must be within the limit."""
        template = self.settings.template
        if not row.has_media:
            return conversation(self.tokens, row.messages, template=template, context=row.context)
        whole = conversation_prompt(
            self.tokens,
            row.messages,
            senses=self.senses,
            template=template,
            context=row.context,
            rules=LOCAL,
        )
        limit = self.data.generative_max_len
        last = max((at for at, number in enumerate(whole.ids) if number < 0), default=0)
        if last >= limit:
            raise InputError(
                f"the images and sounds of the conversation end at token {last + 1}, "
                f"generative_max_len is {limit}; raise it, or reduce their size"
            )
        return whole

    def _media_prompt(self, text: InstructedText, limit: int, name: str) -> Prompt:
        """Return the prompt of an input with images or sounds, which is not cut."""
        frame = self.tokens.embedding_frame(
            instruction=gritlm_instruction(text.instruction),
            end=self.settings.embed_eos,
            embed_instruction=False,
            specials=True,
        )
        return embedding_prompt(
            text.parts,
            name=f"the input (limit {name})",
            tokens=self.tokens,
            senses=self.senses,
            frame=frame,
            max_length=limit,
            rules=LOCAL,
        )

    def _prompts(self, texts: Sequence[InstructedText], limit: int, name: str) -> list[Prompt]:
        """Tokenise texts in their order; texts with the same instruction in one call."""
        prompts = [self._media_prompt(text, limit, name) if text.parts else None for text in texts]
        plain = {i: text for i, text in enumerate(texts) if not text.parts}
        for instruction in dict.fromkeys(text.instruction for text in plain.values()):
            chosen = [i for i, text in plain.items() if text.instruction == instruction]
            try:
                found, _ = self.tokens.for_embedding(
                    [texts[i].text for i in chosen],
                    max_length=limit,
                    instruction=gritlm_instruction(instruction),
                    end=self.settings.embed_eos,
                )
            except InputError as error:
                raise InputError(f"{name} = {limit}: {error} ({instruction[:80]!r})") from None
            for i, prompt in zip(chosen, found, strict=True):
                prompts[i] = prompt
        return [prompt for prompt in prompts if prompt is not None]


def _group(row: EmbeddingExample, size: int, draw: random.Random) -> list[InstructedText]:
    """Return a random positive, then up to ``size - 1`` different random negatives."""
    positive = draw.choice(row.positives)
    return [positive, *draw.sample(row.negatives, min(size - 1, len(row.negatives)))]


def _keys(rows: Sequence[EmbeddingExample], groups: Sequence[Sequence[InstructedText]]) -> Keys:
    positive_QM = torch.full((len(rows), _MOST_POSITIVES), _PADDING, dtype=torch.long)
    for number, row in enumerate(rows):
        chosen = [groups[number][0], *row.positives][:_MOST_POSITIVES]
        positive_QM[number, : len(chosen)] = torch.tensor([key(text.identity) for text in chosen])
    query = [key(row.query.identity) for row in rows]
    return Keys(
        query_Q=torch.tensor(query),
        passage_P=torch.tensor([key(text.identity) for group in groups for text in group]),
        positive_QM=positive_QM,
        owner_P=torch.tensor([query[i] for i, group in enumerate(groups) for _ in group]),
        first_P=torch.tensor([not place for group in groups for place in range(len(group))]),
    )


def key(text: str) -> int:
    """Return a 63-bit hash > 0 that ignores case, white space and enclosing punctuation."""
    plain = " ".join(text.casefold().split()).strip(_ENCLOSING) or text
    digest = hashlib.blake2b(plain.encode("utf-8", "replace"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 1) | 1
