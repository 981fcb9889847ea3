"""Several questions answered together: their rows are read and their answers generated in batches.

The texts are those of single answers, up to rounding. Questions that mix their rows (``token``) or
put all passages into one prompt (``joint``) are read one by one, and generated together where each
has a single row.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from transformers.cache_utils import Cache

from gritlm.lm.gritlm import GritLM
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.kv.cache import is_preallocated
from gritlm.lm.kv.row_batch import RowBatch
from gritlm.lm.sampling import SamplingParams
from gritlm.rag.answer import Answer, PreparedAnswer, generate
from gritlm.rag.cooperative import Checkpoint
from gritlm.rag.fusion import read_questions
from gritlm.rag.growing_text import GrowingText, choose_drafts
from gritlm.rag.options import AnswerOptions
from gritlm.rag.plan import AnswerPlan
from gritlm.rag.prefill import (
    LoadedRows,
    PrefilledPrompt,
    Prefiller,
    RankedRows,
    ReadPassages,
)
from gritlm.rag.retrieve import Query
from gritlm.rag.types import Trace

MOST_QUESTIONS = 16  # answered together: a decode step costs little more than that of one
_MOST_TOKENS = 16_384  # of the rows of one batch, padding and room for the answers included


@dataclass(frozen=True)
class PlannedAnswer:
    """An answer whose prompts are planned.

    Attributes:
        query: the question; its trace takes tokens, bytes and times, those of a batch for each of
            its answers.
        plan: the prompts.
        options: settings of the answer.
    """

    query: Query
    plan: AnswerPlan
    options: AnswerOptions

    @property
    def causal(self) -> bool:
        """Whether the blocks are causal."""
        return self.trace.blocks == "causal"

    @property
    def trace(self) -> Trace:
        """The trace of the answer."""
        return self.query.trace

    def with_new_trace(self) -> PlannedAnswer:
        """Return the answer with a copy of its trace."""
        return replace(self, query=replace(self.query, trace=deepcopy(self.query.trace)))


@dataclass(frozen=True)
class _ChosenRow:
    """The row that an answer goes on with.

    Attributes:
        state: state of the model up to here.
        rest: token ids of the prompt that were not read.
        ranked: the order of all rows; None for an answer with a single passage.
    """

    state: KVBlock | Cache
    rest: Sequence[int]
    ranked: RankedRows | None = None


def read_together(
    model: GritLM,
    prefiller: Prefiller,
    planned: Sequence[PlannedAnswer],
    *,
    grows: bool = True,
    checkpoint: Checkpoint | None = None,
) -> list[ReadPassages]:
    """Load the blocks of several answers and prefill the rest of their prompts.

    Args:
        model: the model.
        prefiller: reads prompts with the model.
        planned: the answers.
        grows: whether the answers are generated in the caches of their prompts.
        checkpoint: checkpoint callback; None where no other work waits for the model.

    Raises:
        InputError: when a prompt leaves no room for an answer.
    """
    found: dict[int, ReadPassages] = {}
    shared: list[int] = []
    for number, each in enumerate(planned):
        if each.plan.fusion == "sequence":
            shared.append(number)
            continue
        found[number] = prefiller.read(
            each.plan,
            each.options,
            causal=each.causal,
            question=each.query.block,
            trace=each.trace,
            checkpoint=checkpoint,
        )
    for group in _groups(planned, shared, grows=grows):
        some = [planned[number] for number in group]
        read = _read_group(model, prefiller, some, grows=grows, checkpoint=checkpoint)
        found.update(zip(group, read, strict=True))
    return [found[number] for number in range(len(planned))]


def _groups(
    planned: Sequence[PlannedAnswer], numbers: Sequence[int], *, grows: bool
) -> Iterator[list[int]]:
    """Yield answers whose rows are read in one batch."""
    group: list[int] = []
    rows = longest = 0
    for number in numbers:
        each = planned[number]
        size = max(row.tokens for row in each.plan.rows)
        size += each.options.sampling.max_new_tokens if grows else 0
        more = len(each.plan.rows) + 1  # perhaps a row without passage
        if group and (rows + more) * max(longest, size) > _MOST_TOKENS:
            yield group
            group = []
            rows = longest = 0
        group.append(number)
        rows += more
        longest = max(longest, size)
    if group:
        yield group


def _read_group(
    model: GritLM,
    prefiller: Prefiller,
    planned: Sequence[PlannedAnswer],
    *,
    grows: bool,
    checkpoint: Checkpoint | None,
) -> list[ReadPassages]:
    rooms = [prefiller.room(each.plan, each.options) for each in planned]
    kept = rooms if grows else [0] * len(rooms)
    loaded = [
        prefiller.load_rows(each.plan, causal=each.causal, trace=each.trace, checkpoint=checkpoint)
        for each in planned
    ]
    chosen = _choose(model, prefiller, planned, loaded)
    if checkpoint is not None:
        checkpoint()
    with _stage(planned, "prefill"):
        rest = max(len(row.rest) for row in chosen)
        batch = RowBatch(model.lm, [row.state for row in chosen], room=rest + max(kept))
        logits_BV = batch.prefill_rows([row.rest for row in chosen])[:, -1]
    read = []
    for number, (each, row, room) in enumerate(zip(planned, chosen, rooms, strict=True)):
        cache = batch.row(number, room=kept[number])
        best = 0 if row.ranked is None else row.ranked.order[0]
        ids = each.plan.rows[best].text_ids
        prompt = PrefilledPrompt(cache, logits_BV[number], room, ids, each.trace.tokens_reused)
        if row.ranked is None:
            read.append(ReadPassages(prompt, each.plan.rows[0].hits, used=1))
        else:
            read.append(row.ranked.read(each.plan, prompt))
    return read


@torch.inference_mode()
def _choose(
    model: GritLM,
    prefiller: Prefiller,
    planned: Sequence[PlannedAnswer],
    loaded: Sequence[LoadedRows],
) -> list[_ChosenRow]:
    """Read the questions of answers with several rows; return the best row of every answer."""
    several = [rows for rows in loaded if len(rows.plan.rows) > 1]
    likelihoods: list[float] = []
    if several:
        questions = [question for rows in several for question in rows.questions]
        with _stage(planned, "score"):
            blocks = [block for rows in several for block in rows.blocks]
            room = max(question.span[1] for question in questions)
            batch = RowBatch(model.lm, blocks, room=room)
            likelihoods = read_questions(batch, questions)
    chosen = []
    start = 0
    for each, rows in zip(planned, loaded, strict=True):
        plan = each.plan.rows[0]
        if len(rows.plan.rows) == 1:
            (block,) = rows.blocks
            assert block is not None, "only a row that is compared has no passage"
            prefiller.count_single(rows, each.trace)
            chosen.append(_ChosenRow(block, plan.ids))
            continue
        stop = start + len(rows.blocks)
        ranked = prefiller.rank(rows, likelihoods[start:stop], each.trace)
        state = batch.row(start + ranked.order[0], room=0)
        chosen.append(_ChosenRow(state, plan.ids[plan.question_span[1] :], ranked))
        start = stop
    return chosen


@contextmanager
def _stage(planned: Sequence[PlannedAnswer], name: str) -> Iterator[None]:
    with ExitStack() as stack:
        for each in planned:
            stack.enter_context(each.trace.stage(name))
        yield


def generate_together(
    model: GritLM, prepared: Sequence[PreparedAnswer], sampling: SamplingParams
) -> list[Answer]:
    """Generate several answers, in batches of those with a single row.

    Args:
        model: the model that prefilled the prompts.
        prepared: the answers; their traces take the number of tokens and the times.
        sampling: settings of all answers; their length is settled already.
    """
    sampling.check(model.lm.vocabulary_size)
    texts: dict[int, str] = {}
    batched: list[int] = []
    for number, each in enumerate(prepared):
        if each.prompt.mixed is None and is_preallocated(each.prompt.cache):
            batched.append(number)
        else:
            texts[number] = "".join(generate(model, each, sampling))
    growing = [GrowingText(model, prepared[number], sampling) for number in batched]
    _decode(model, growing)
    texts.update((number, each.text) for number, each in zip(batched, growing, strict=True))
    return [Answer(texts[number], each.sources, each.trace) for number, each in enumerate(prepared)]


def _decode(model: GritLM, texts: Sequence[GrowingText]) -> None:
    """Generate texts to their ends, in batches within a number of tokens."""
    if not texts:
        return
    prompts = [each.prepared.prompt for each in texts]
    longest = max(int(prompt.cache.get_seq_length()) + prompt.room for prompt in prompts)
    if len(texts) > 1 and len(texts) * longest > _MOST_TOKENS:
        middle = len(texts) // 2
        _decode(model, texts[:middle])
        _decode(model, texts[middle:])
        return
    for text, prompt in zip(texts, prompts, strict=True):
        text.draw(prompt.logits_V)
    room = max(prompt.room for prompt in prompts)
    batch = RowBatch(model.lm, [prompt.cache for prompt in prompts], room=room)
    running = list(texts)
    while left := [row for row, text in enumerate(running) if not text.ended]:
        if 2 * len(left) <= len(running):
            batch = batch.select(left, room=room)
            running = [running[row] for row in left]
        drafts = choose_drafts(running)
        ids = [
            [] if text.ended else [text.token, *draft]
            for text, draft in zip(running, drafts, strict=True)
        ]
        logits_BSV = batch.prefill_rows(ids, keep=max(map(len, ids)))
        rows = zip(running, drafts, logits_BSV, strict=True)
        batch.drop([text.draw_drafted(draft, logits_SV) for text, draft, logits_SV in rows])
