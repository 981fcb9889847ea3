"""Question and passages -> what comes as key/value blocks, and what is read when it is asked.

Shapes: T tokens of one part.

A part is read by itself and begins with the tokenizer's BOS, of which only the first part's stays.
The best passage stands last, next to the question.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

from gritlm.errors import InputError
from gritlm.lm.gritlm import GritLM
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.prompts import RAG_FORMS, RagMode, for_rag, gritlm_instruction
from gritlm.rag.types import Hit

_KEPT = 1024  # passages whose ids are remembered
QUESTION = "question"
INSTRUCTION = "instruction"  # parts of a prompt that are no passage

BlockKind = Literal["bidirectional", "causal"]
BLOCK_KINDS: tuple[BlockKind, ...] = get_args(BlockKind)


@dataclass(frozen=True)
class PromptPart:
    """What one key/value block is made of.

    Attributes:
        ids: with BOS, as they are embedded.
        hit: the passage; None for the question.
        cut: how many ids in front are left out where it is used: a BOS that is not the first.
    """

    ids: tuple[int, ...]
    hit: Hit | None = None
    cut: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of the prompt that come from it."""
        return len(self.ids) - self.cut

    @property
    def name(self) -> str:
        return QUESTION if self.hit is None else self.hit.passage.id


@dataclass(frozen=True)
class PromptPlan:
    """A prompt, cut into what is reused and what is read.

    Attributes:
        parts: in reading order; blocks are made of them. Empty in mode ``none``.
        ids: what is read behind them.
        read: what these are, in order, and how many tokens each: passages by their ids,
            ``question``, and ``instruction`` for all around them.
        hits: passages that are read, in reading order.
        dropped: passages without room, the least relevant ones.
    """

    mode: RagMode
    parts: tuple[PromptPart, ...]
    ids: tuple[int, ...]
    read: tuple[tuple[str, int], ...]
    hits: tuple[Hit, ...]
    dropped: tuple[Hit, ...] = ()

    @property
    def tokens(self) -> int:
        """Length of the prompt."""
        return sum(part.tokens for part in self.parts) + len(self.ids)


class PromptAssembler:
    """Plans prompts for one model, with the ids that it was trained on.

    An engine makes one and hands it on: it copies the tokenizer, which takes some 0.2 seconds.

    Args:
        limit: tokens of a prompt and its answer; None for what the model takes.
    """

    def __init__(self, model: GritLM, *, limit: int | None = None) -> None:
        self.tokens = SegmentTokenizer(model.tokenizer)
        self._settings = model.settings
        own = model.lm.max_positions or sys.maxsize
        self._limit = own if limit is None else min(own, limit)
        self.prefix = self.tokens.prefix
        # Planning asks for the same passages again and again, and so do other questions.
        self._passage = lru_cache(_KEPT)(lambda text: self.passage_ids([text])[0])

    def question_ids(self, question: str) -> tuple[int, ...]:
        """The question as it is embedded."""
        return self._embedded([question], self._settings.query_instruction)[0]

    def passage_ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Passages as they are embedded."""
        return self._embedded(texts, "")

    def plan(
        self, mode: RagMode, question: str, found: Sequence[Hit], *, max_new_tokens: int
    ) -> PromptPlan:
        """The prompt in one mode; passages that have no room are left out, the worst first.

        Args:
            found: the best one first.
            max_new_tokens: room that is left for the answer.

        Raises:
            InputError: when the question does not fit with a single passage.
        """
        room = self._limit - max_new_tokens

        def size(count: int) -> int:
            return self._plan(mode, question, found[:count]).tokens

        few = min(1, len(found))
        if (least := size(few)) > room:
            what = "and its best passage have" if few else "has"
            raise InputError(
                f"the question {what} {least} tokens in mode {mode!r}; the model takes "
                f"{self._limit}, of which {max_new_tokens} are kept for the answer: ask for "
                "less, or index with shorter passages"
            )
        kept = bisect_right(range(few, len(found) + 1), room, key=size) + few - 1
        made = self._plan(mode, question, found[:kept])
        return replace(made, dropped=tuple(reversed(found[kept:])))

    def fresh(self, plan: PromptPlan) -> PromptPlan:
        """The same prompt, all of it read when it is asked."""
        ids = [i for part in plan.parts for i in part.ids[part.cut :]]
        read = ((part.name, part.tokens) for part in plan.parts)
        return replace(plan, parts=(), ids=(*ids, *plan.ids), read=(*read, *plan.read))

    def _plan(self, mode: RagMode, question: str, found: Sequence[Hit]) -> PromptPlan:
        hits = tuple(reversed(found))
        parts: list[PromptPart] = []
        for before in RAG_FORMS[mode].before:
            if before == "question":
                parts.append(PromptPart(self.question_ids(question)))
            else:
                parts += [PromptPart(self._passage(hit.passage.embedded), hit) for hit in hits]
        parts = [replace(part, cut=len(self.prefix) if n else 0) for n, part in enumerate(parts)]
        ids, read = self._tail(mode, question, hits, start=not parts)
        made = PromptPlan(mode, tuple(parts), ids, read, hits)
        return self.fresh(made) if mode == "none" else made

    def _tail(
        self, mode: RagMode, question: str, hits: Sequence[Hit], *, start: bool
    ) -> tuple[tuple[int, ...], tuple[tuple[str, int], ...]]:
        """What is read behind all blocks, and what of it is what."""
        texts = [hit.passage.embedded for hit in hits]
        segments = for_rag(mode, question=question, documents=texts)
        # A trained segment is one whose span is told.
        spanned = [replace(segment, trained=True) for segment in segments]
        prompt = self.tokens.for_chat(spanned, start=start)
        sizes = [end - begin for begin, end in prompt.trained[1:]]  # behind the role
        passages = [hit.passage.id for hit in hits]
        names = {"documents": passages, "question": [QUESTION], None: []}[RAG_FORMS[mode].fresh]
        named = list(zip(names, sizes, strict=False))  # what is left are instruction and role
        rest = len(prompt.ids) - sum(size for _, size in named)
        return tuple(prompt.ids), (*named, (INSTRUCTION, rest))

    def _embedded(self, texts: Sequence[str], instruction: str) -> list[tuple[int, ...]]:
        prompts, _ = self.tokens.for_embedding(
            texts,
            max_length=sys.maxsize,
            instruction=gritlm_instruction(instruction),
            end=self._settings.embed_eos,
        )
        return [tuple(prompt.ids) for prompt in prompts]
