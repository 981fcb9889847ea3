"""Prefill of an answer: the prompts of its passages, up to the logits of the first token.

Shapes: B rows, Q tokens of the question, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gritlm.errors import InputError
from gritlm.lm.generator import answer_room, prefill_in_pieces, prefix_cache
from gritlm.lm.generator import prefill as prefill_one
from gritlm.lm.gritlm import GritLM
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.kv.cache import is_preallocated
from gritlm.lm.kv.row_batch import RowBatch
from gritlm.rag.cooperative import Checkpoint
from gritlm.rag.fusion import (
    MixedRows,
    Mixture,
    PassageScore,
    SpannedIds,
    passage_scores,
    read_questions,
)
from gritlm.rag.options import AnswerOptions
from gritlm.rag.plan import AnswerPlan, PromptPlan
from gritlm.rag.reuse.blocks import BlockProvider
from gritlm.rag.reuse.recompute import read_again
from gritlm.rag.types import Hit, Trace


@dataclass(frozen=True)
class PrefilledPrompt:
    """The state of a model after the prompts of an answer.

    Attributes:
        cache: key/value state of the prompt, with room for the answer.
        logits_V: logits of the first token of the answer (V,).
        room: number of tokens that may follow.
        ids: token ids of the prompt; of the best passage's where several are read alone.
        reused: number of prompt tokens that came from stored blocks.
        mixed: rows that generate the answer together, instead of ``cache``; None for one prompt.
    """

    cache: Cache
    logits_V: Tensor
    room: int
    ids: Sequence[int] = ()
    reused: int = 0
    mixed: MixedRows | None = None

    @property
    def caches(self) -> list[Cache]:
        """Cache of each row that generates the answer; a single one without ``mixed``."""
        return [self.cache] if self.mixed is None else self.mixed.caches()


@dataclass(frozen=True)
class ReadPassages:
    """The passages of an answer after the prefill.

    Attributes:
        prompt: state of the model.
        hits: the passages that were read, the best first.
        used: number of the first passages that the answer comes from.
        scores: scores of the passages in the same order; empty for ``joint`` and for a single
            passage.
        gain: gain in mean log-probability of the question by the best passage over a prompt
            without passage; None where that prompt was not read.
    """

    prompt: PrefilledPrompt
    hits: tuple[Hit, ...]
    used: int
    scores: tuple[PassageScore, ...] = ()
    gain: float | None = None


@dataclass(frozen=True)
class LoadedRows:
    """The rows of an answer before they are read.

    Attributes:
        plan: the prompts.
        blocks: block of each row; None at the end for a row without passage.
        costs: trace of the block of each passage.
    """

    plan: AnswerPlan
    blocks: Sequence[KVBlock | None]
    costs: Sequence[Trace]

    @property
    def questions(self) -> list[SpannedIds]:
        """Token ids of each row, with the span of the question in them."""
        row = self.plan.rows[0]
        return [SpannedIds(row.ids, row.question_span)] * len(self.blocks)


@dataclass(frozen=True)
class RankedRows:
    """The rows of an answer after the question was read in each of them.

    Attributes:
        scores: scores of the passages.
        order: indices of the rows, the best first.
        gain: as in :class:`ReadPassages`.
    """

    scores: Sequence[PassageScore]
    order: Sequence[int]
    gain: float | None = None

    def read(self, plan: AnswerPlan, prompt: PrefilledPrompt) -> ReadPassages:
        """Return the passages of an answer with the state of the model."""
        return ReadPassages(
            prompt,
            tuple(plan.rows[row].hits[0] for row in self.order),
            used=1 if plan.fusion == "sequence" else len(self.order),
            scores=tuple(self.scores[row] for row in self.order),
            gain=self.gain,
        )


class Prefiller:
    """Prefills the prompts of answers with one model.

    Args:
        model: the model.
        blocks: provider of KV blocks.
    """

    def __init__(self, model: GritLM, blocks: BlockProvider) -> None:
        self._model = model
        self._blocks = blocks

    def read(
        self,
        plan: AnswerPlan,
        options: AnswerOptions,
        *,
        causal: bool,
        question: KVBlock | None,
        trace: Trace,
        checkpoint: Checkpoint | None = None,
    ) -> ReadPassages:
        """Load the blocks of the prompts and prefill the rest of them.

        Args:
            plan: the prompts.
            options: length of the answer, and the tokens that are recomputed.
            causal: kind of the blocks.
            question: block of the pass that embedded the question.
            trace: takes tokens, bytes and times.
            checkpoint: checkpoint callback; None where no other work waits for the model.

        Raises:
            InputError: when a prompt leaves no room for an answer.
        """
        if self._compares(plan):
            return self._read_rows(plan, options, causal=causal, trace=trace, checkpoint=checkpoint)
        (row,) = plan.rows
        if options.blocks is not None and question is not None and question.causal != causal:
            question = None
        with trace.stage("load"):
            blocks = self._row_blocks(row, question, trace, causal=causal, checkpoint=checkpoint)
        prompt = self._read_joint(row, blocks, options, trace, checkpoint)
        return ReadPassages(prompt, tuple(reversed(row.hits)), used=len(row.hits))

    def _read_joint(
        self,
        plan: PromptPlan,
        blocks: Sequence[KVBlock],
        options: AnswerOptions,
        trace: Trace,
        checkpoint: Checkpoint | None,
    ) -> PrefilledPrompt:
        """Join the blocks of a prompt in one cache and prefill the remaining tokens."""
        lm = self._model.lm
        room = answer_room(lm, plan.tokens, options.sampling.max_new_tokens)
        _trace_sections(plan, trace)
        _require_movable(plan, blocks)
        with trace.stage("move"):
            cache = prefix_cache(lm, blocks, room=len(plan.ids) + room)
        positions: list[int] = []
        if options.recompute is not None and len(blocks) > 1:
            sizes = [block.tokens for block in blocks]
            positions = options.recompute.positions(sizes, plan.best)
        if positions and not is_preallocated(cache):
            trace.reasons.append(
                "no tokens recomputed: the cache of this model does not support it"
            )
            positions = []
        ids = [i for block in blocks for i in block.token_ids.tolist()]
        if positions and min(ids) < 0:
            trace.reasons.append("no tokens recomputed: the prompt has images or sound")
            positions = []
        with trace.stage("prefill"):
            if positions:
                logits_V = read_again(lm, cache, positions, ids=ids, tail=plan.ids)
            else:
                media = self._blocks.media_of(plan.ids, plan.hits)
                logits_V = prefill_in_pieces(lm, cache, plan.ids, checkpoint, media=media)
        trace.tokens_recomputed = len(positions)
        return PrefilledPrompt(cache, logits_V, room, plan.text_ids, trace.tokens_reused)

    def _read_rows(
        self,
        plan: AnswerPlan,
        options: AnswerOptions,
        *,
        causal: bool,
        trace: Trace,
        checkpoint: Checkpoint | None,
    ) -> ReadPassages:
        """Read the question behind each passage alone, and go on with the best one, or with all."""
        room = self.room(plan, options)
        rows = self.load_rows(plan, causal=causal, trace=trace, checkpoint=checkpoint)
        with trace.stage("move"):
            batch = RowBatch(self._model.lm, rows.blocks, room=len(plan.rows[0].ids) + room)
        with trace.stage("score"):
            likelihoods = read_questions(batch, rows.questions)
        if checkpoint is not None:
            checkpoint()
        ranked = self.rank(rows, likelihoods, trace)
        with trace.stage("prefill"):
            prompt = self._go_on(batch, plan, ranked, options, room=room)
        return ranked.read(plan, replace(prompt, reused=trace.tokens_reused))

    def room(self, plan: AnswerPlan, options: AnswerOptions) -> int:
        """Return the most tokens that may follow the longest row of an answer.

        Raises:
            InputError: when a prompt leaves no room for an answer.
        """
        longest = max(row.tokens for row in plan.rows)
        return answer_room(self._model.lm, longest, options.sampling.max_new_tokens)

    def load_rows(
        self,
        plan: AnswerPlan,
        *,
        causal: bool,
        trace: Trace,
        checkpoint: Checkpoint | None = None,
    ) -> LoadedRows:
        """Load the block of each row of an answer.

        Args:
            plan: the prompts.
            causal: kind of the blocks.
            trace: takes the time.
            checkpoint: checkpoint callback; None where no other work waits for the model.
        """
        costs = [Trace() for _ in plan.rows]
        with trace.stage("load"):
            blocks: list[KVBlock | None] = [
                block
                for row, cost in zip(plan.rows, costs, strict=True)
                for block in self._row_blocks(row, None, cost, causal=causal, checkpoint=checkpoint)
            ]
        if plan.contrasts or (self._judges_absence and self._compares(plan)):
            blocks.append(None)
        return LoadedRows(plan, blocks, costs)

    @staticmethod
    def _compares(plan: AnswerPlan) -> bool:
        """Return whether the question is read in every row before one goes on."""
        return len(plan.rows) > 1 or plan.fusion == "token"

    def rank(self, rows: LoadedRows, likelihoods: Sequence[float], trace: Trace) -> RankedRows:
        """Return the order of the rows of an answer, and count their tokens.

        Args:
            rows: the rows.
            likelihoods: mean log-probability of the question in each row.
            trace: takes the tokens.
        """
        plan = rows.plan
        hits = [row.hits[0] for row in plan.rows]
        settings = self._model.settings.fusion
        scores = passage_scores(hits, likelihoods[: len(hits)], settings)
        order = sorted(range(len(scores)), key=lambda row: -scores[row].score)
        _trace_rows(plan, rows.costs, order, trace, bare=len(rows.blocks) - len(order))
        if len(rows.blocks) == len(order):
            return RankedRows(scores, order)
        best = max(each.likelihood for each in scores)
        return RankedRows(scores, order, best - likelihoods[len(hits)])

    def count_single(self, rows: LoadedRows, trace: Trace) -> None:
        """Count the tokens of an answer with a single row."""
        (cost,) = rows.costs
        trace.add_blocks(cost)
        _trace_sections(rows.plan.rows[0], trace)

    @property
    def _judges_absence(self) -> bool:
        settings = self._model.settings.fusion
        return settings is not None and settings.absent is not None

    def _row_blocks(
        self,
        row: PromptPlan,
        question: KVBlock | None,
        trace: Trace,
        *,
        causal: bool,
        checkpoint: Checkpoint | None,
    ) -> list[KVBlock]:
        """Return the blocks of a prompt; in mode ``none`` they are causal and nothing is reused."""
        fresh = row.mode == "none"
        return self._blocks.of(
            row.parts,
            causal=causal or fresh,
            question=question,
            trace=trace,
            checkpoint=checkpoint,
            reuse=not fresh,
        )

    @torch.inference_mode()
    def _go_on(
        self,
        batch: RowBatch,
        plan: AnswerPlan,
        ranked: RankedRows,
        options: AnswerOptions,
        *,
        room: int,
    ) -> PrefilledPrompt:
        """Read the rest of the prompt in the best row, or in all rows."""
        rest = plan.rows[0].ids[plan.rows[0].question_span[1] :]
        if plan.fusion == "sequence":
            best = ranked.order[0]
            cache = batch.row(best, room=len(rest) + room)
            logits_V = prefill_one(self._model.lm, cache, rest)
            return PrefilledPrompt(cache, logits_V, room, plan.rows[best].text_ids)
        if not plan.contrasts:
            batch.keep(len(plan.rows))  # the row without passage was read for its likelihood only
        calibrated = self._model.settings.fusion is not None
        mixture = Mixture(ranked.scores, calibrated=calibrated, contrast=options.contrast)
        mixed = MixedRows(batch, mixture)
        return PrefilledPrompt(batch.cache, mixed.prefill(rest), room, mixed=mixed)


def _require_movable(plan: PromptPlan, blocks: Sequence[KVBlock]) -> None:
    """Refuse a prompt of several blocks, one of which must stay at position 0.

    Raises:
        InputError: with the use of passages that is possible.
    """
    if len(blocks) > 1 and any(block.end is not None for block in blocks):
        raise InputError(
            f"mode {plan.mode!r} joins {len(blocks)} blocks, and the positions of images of this "
            "model have three dimensions (M-RoPE), so their blocks cannot be joined; use "
            "fusion='sequence', which reads each passage alone, with mode='doc'"
        )


def _trace_rows(
    plan: AnswerPlan, costs: Sequence[Trace], order: Sequence[int], trace: Trace, *, bare: int
) -> None:
    """Count the tokens of all rows; those of the best one are the prompt of the answer.

    Args:
        plan: the prompts.
        costs: trace of the block of each row.
        order: rows, the best first.
        trace: trace of the answer.
        bare: number of rows without passage.
    """
    best = plan.rows[order[0]]
    for row in order[1:]:
        trace.add_discarded(costs[row])
    selecting = best.question_span[1]
    goes_on = plan.fusion == "token"
    trace.tokens_selecting += (len(order) - 1) * (len(best.ids) if goes_on else selecting)
    trace.tokens_selecting += bare * (len(best.ids) if plan.contrasts else selecting)
    trace.add_blocks(costs[order[0]])
    _trace_sections(best, trace)


def _trace_sections(plan: PromptPlan, trace: Trace) -> None:
    for name, tokens in plan.read:
        trace.part(name, tokens=tokens, tier="read")
