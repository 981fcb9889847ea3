"""Layout of RAG prompts: parts that are KV blocks, and tokens that are prefilled after them.

Each part is read alone and begins with the tokenizer's BOS; only the BOS of the first part stays.
The best passage comes last, next to the question.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from gritlm.errors import InputError
from gritlm.lm.gritlm import GritLM
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.prompts import RAG_FORMS, RagMode, for_rag, gritlm_instruction
from gritlm.rag.fusion import Fusion
from gritlm.rag.media.media_library import MediaLibrary
from gritlm.rag.types import Hit, Passage

_CACHED = 1024  # passages whose token ids are kept in memory
QUESTION = "question"
INSTRUCTION = "instruction"  # names of the parts that are no passages
# Passages that are read alone for one answer.
MOST_ROWS = 32
# Tokens of the rows of one batch, padding and room for the answer included.
_MOST_TOKENS = 65_536


def rows_together(sizes: Sequence[int]) -> int:
    """Return the number of first rows that are read in one batch, at least one.

    Args:
        sizes: largest number of tokens of each row.
    """
    longest = 0
    for count, size in enumerate(sizes[:MOST_ROWS]):
        longest = max(longest, size)
        if count and (count + 1) * longest > _MOST_TOKENS:
            return count
    return min(len(sizes), MOST_ROWS)


def question_after(tokens: SegmentTokenizer, question: str) -> tuple[list[int], tuple[int, int]]:
    """Return the token ids of a question after its passage, and the span of its text in them."""
    segments = for_rag("doc", question=question, documents=())
    prompt = tokens.for_chat([replace(each, trained=True) for each in segments], start=False)
    begin, end = prompt.trained[1]  # the first is the role
    return list(prompt.ids[:end]), (begin, end)


@dataclass(frozen=True)
class PromptPart:
    """A part of a prompt that comes from one KV block.

    Attributes:
        ids: token ids with BOS, as they are embedded.
        hit: the passage; None for the question.
        cut: number of leading tokens left out of the prompt: the BOS of every part but the first.
    """

    ids: tuple[int, ...]
    hit: Hit | None = None
    cut: int = 0

    @property
    def tokens(self) -> int:
        """Number of tokens of the part in the prompt."""
        return len(self.ids) - self.cut

    @property
    def hits(self) -> tuple[Hit, ...]:
        """The passage, if the part is one."""
        return () if self.hit is None else (self.hit,)

    @property
    def name(self) -> str:
        """Id of the passage, or ``question``."""
        return QUESTION if self.hit is None else self.hit.passage.id


@dataclass(frozen=True)
class PromptPlan:
    """A prompt in two sections: reused parts, then prefilled tokens.

    Attributes:
        mode: mode of reuse.
        parts: parts that come from KV blocks, in reading order; empty in mode ``none``.
        ids: token ids that are prefilled after the parts.
        read: name and number of tokens of each section of ``ids``, in order: ids of passages,
            ``question``, and ``instruction`` for the rest.
        hits: passages of the prompt, in reading order.
        question: begin and end of the question in ``ids``; None where it is no section of them.
        dropped: passages that do not fit, the least relevant ones.
    """

    mode: RagMode
    parts: tuple[PromptPart, ...]
    ids: tuple[int, ...]
    read: tuple[tuple[str, int], ...]
    hits: tuple[Hit, ...]
    question: tuple[int, int] | None = None
    dropped: tuple[Hit, ...] = ()

    @property
    def tokens(self) -> int:
        """Number of tokens of the prompt."""
        return sum(part.tokens for part in self.parts) + len(self.ids)

    @property
    def all_ids(self) -> list[int]:
        """Token ids of the whole prompt."""
        return [*(i for part in self.parts for i in part.ids[part.cut :]), *self.ids]

    @property
    def text_ids(self) -> list[int]:
        """Token ids of the whole prompt, without the placeholders of images and sound."""
        return [number for number in self.all_ids if number >= 0]

    @property
    def question_span(self) -> tuple[int, int]:
        """Begin and end of the question in ``ids``, in a mode that has it there."""
        if self.question is None:
            raise ValueError(f"mode {self.mode!r} has no question among the prefilled tokens")
        return self.question

    @property
    def best(self) -> int | None:
        """Index of the part with the best passage; None without one."""
        found = [number for number, part in enumerate(self.parts) if part.hit is not None]
        return found[-1] if found else None


@dataclass(frozen=True)
class AnswerPlan:
    """The prompts of an answer.

    Attributes:
        fusion: use of several passages.
        rows: prompt of each passage, the best first; for ``joint`` the only prompt.
        contrasts: whether a row without passage takes part in the answer.
    """

    fusion: Fusion
    rows: tuple[PromptPlan, ...]
    contrasts: bool = False

    @property
    def sequences(self) -> int:
        """Number of rows that generate the answer together."""
        return len(self.rows) + self.contrasts if self.fusion == "token" else 1

    @property
    def tokens(self) -> int:
        """Number of tokens of all prompts."""
        return sum(row.tokens for row in self.rows)

    @property
    def dropped(self) -> tuple[Hit, ...]:
        """Passages that do not fit."""
        return self.rows[0].dropped


class PromptAssembler:
    """Lays out prompts for one model, with the token ids of its training.

    An engine makes one and shares it: copying the tokenizer takes some 0.2 seconds.

    Args:
        model: the model.
        limit: most tokens of a prompt and its answer; None for the limit of the model.
        media: images and sounds of passages; None where all passages are text.
    """

    def __init__(
        self, model: GritLM, *, limit: int | None = None, media: MediaLibrary | None = None
    ) -> None:
        self.tokens = SegmentTokenizer(model.tokenizer)
        self._settings = model.settings
        own = model.lm.max_positions or sys.maxsize
        self._limit = own if limit is None else min(own, limit)
        self.prefix = self.tokens.prefix
        self.media = media
        # The binary search below needs the same passages many times, and so do other questions.
        self._passage = lru_cache(_CACHED)(lambda text: self.passage_ids([text])[0])

    def question_ids(self, question: str) -> tuple[int, ...]:
        """Return the token ids of a question, as it is embedded."""
        return self._embedded([question], self._settings.query_instruction)[0]

    def passage_ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the token ids of passages, as they are embedded."""
        return self._embedded(texts, "")

    def ids_of(self, passages: Sequence[Passage]) -> list[tuple[int, ...]]:
        """Return the token ids of passages of any kind, as they are embedded.

        Raises:
            InputError: for an image or a sound that is missing in the store.
        """
        seen = {
            passage.id: ids
            for passage in passages
            if self.media is not None and (ids := self.media.ids(passage.id)) is not None
        }
        for passage in passages:
            if passage.media is not None and passage.id not in seen:
                raise InputError(
                    f"the {passage.media.kind} of passage {passage.id} is not in the store: "
                    f"{passage.text}; index {passage.document_id!r} again"
                )
        texts = [passage.embedded for passage in passages if passage.id not in seen]
        read = iter(map(self._passage, texts) if len(texts) == 1 else self.passage_ids(texts))
        return [seen[each.id] if each.id in seen else next(read) for each in passages]

    def plan(
        self, mode: RagMode, question: str, found: Sequence[Hit], *, max_new_tokens: int
    ) -> PromptPlan:
        """Return the prompt in one mode, without the worst passages if they do not fit.

        Args:
            mode: mode of reuse.
            question: the question.
            found: passages, the best first.
            max_new_tokens: number of tokens kept free for the answer.

        Raises:
            InputError: when the question does not fit with a single passage.
        """
        room = self._limit - max_new_tokens

        def size(count: int) -> int:
            return self._plan(mode, question, found[:count]).tokens

        few = min(1, len(found))
        if (least := size(few)) > room:
            subject = "and its best passage have" if few else "has"
            raise self._too_long(f"the question {subject} {least} tokens", mode, max_new_tokens)
        kept = bisect_right(range(few, len(found) + 1), room, key=size) + few - 1
        plan = self._plan(mode, question, found[:kept])
        return replace(plan, dropped=tuple(reversed(found[kept:])))

    def rows(self, question: str, found: Sequence[Hit], *, max_new_tokens: int) -> list[PromptPlan]:
        """Return a prompt for each passage alone, in mode ``doc``, without those that do not fit.

        Args:
            question: the question.
            found: passages, the best first.
            max_new_tokens: number of tokens kept free for the answer.

        Raises:
            InputError: when no passage fits together with the question.
        """
        plans = [self._plan("doc", question, [hit]) for hit in found]
        room = self._limit - max_new_tokens
        fitting = [plan for plan in plans if plan.tokens <= room]
        if not fitting:
            least = min(plan.tokens for plan in plans)
            subject = f"the question and its shortest passage have {least} tokens"
            raise self._too_long(subject, "doc", max_new_tokens)
        kept = fitting[: rows_together([plan.tokens + max_new_tokens for plan in fitting])]
        dropped = tuple(hit for plan in plans if plan not in kept for hit in plan.hits)
        return [replace(kept[0], dropped=dropped), *kept[1:]]

    def _too_long(self, subject: str, mode: RagMode, max_new_tokens: int) -> InputError:
        return InputError(
            f"{subject} in mode {mode!r}; the model takes {self._limit}, of which {max_new_tokens} "
            "are kept for the answer: ask for less, or index with shorter passages"
        )

    def fresh(self, plan: PromptPlan) -> PromptPlan:
        """Return the same prompt without reuse: all of it is prefilled."""
        read = ((part.name, part.tokens) for part in plan.parts)
        question = plan.question
        if question is not None:
            before = plan.tokens - len(plan.ids)
            question = (question[0] + before, question[1] + before)
        return replace(
            plan, parts=(), ids=tuple(plan.all_ids), read=(*read, *plan.read), question=question
        )

    def _plan(self, mode: RagMode, question: str, found: Sequence[Hit]) -> PromptPlan:
        hits = tuple(reversed(found))
        parts: list[PromptPart] = []
        for before in RAG_FORMS[mode].before:
            if before == "question":
                parts.append(PromptPart(self.question_ids(question)))
            else:
                parts += [PromptPart(self.ids_of([hit.passage])[0], hit) for hit in hits]
        parts = [replace(part, cut=len(self.prefix) if n else 0) for n, part in enumerate(parts)]
        ids, read, span = self._tail(mode, question, hits, start=not parts)
        plan = PromptPlan(mode, tuple(parts), ids, read, hits, span)
        return self.fresh(plan) if mode == "none" else plan

    def _tail(
        self, mode: RagMode, question: str, hits: Sequence[Hit], *, start: bool
    ) -> tuple[tuple[int, ...], tuple[tuple[str, int], ...], tuple[int, int] | None]:
        """Return the token ids after the parts, name and length of each of their sections, and
        begin and end of the question in them."""
        if RAG_FORMS[mode].fresh == "documents":
            _require_texts(mode, hits)
        texts = [hit.passage.embedded for hit in hits]
        segments = for_rag(mode, question=question, documents=texts)
        # The tokenizer returns the spans of trained segments only.
        spanned = [replace(segment, trained=True) for segment in segments]
        prompt = self.tokens.for_chat(spanned, start=start)
        sizes = [end - begin for begin, end in prompt.trained[1:]]  # the first is the role
        passages = [hit.passage.id for hit in hits]
        names = {"documents": passages, "question": [QUESTION], None: []}[RAG_FORMS[mode].fresh]
        named = list(zip(names, sizes, strict=False))  # the rest are instruction and role
        rest = len(prompt.ids) - sum(size for _, size in named)
        span = prompt.trained[1] if RAG_FORMS[mode].fresh == "question" else None
        return tuple(prompt.ids), (*named, (INSTRUCTION, rest)), span

    def _embedded(self, texts: Sequence[str], instruction: str) -> list[tuple[int, ...]]:
        prompts, _ = self.tokens.for_embedding(
            texts,
            max_length=sys.maxsize,
            instruction=gritlm_instruction(instruction),
            end=self._settings.embed_eos,
        )
        return [tuple(prompt.ids) for prompt in prompts]


def _require_texts(mode: RagMode, hits: Sequence[Hit]) -> None:
    """Refuse passages that cannot be spelled out in a prompt."""
    for hit in hits:
        if (place := hit.passage.media) is not None:
            raise InputError(
                f"mode {mode!r} reads the text of passages, and {hit.passage.text} is of kind "
                f"{place.kind}; use mode 'doc'"
            )
