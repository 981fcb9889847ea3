"""RAG samples: one row with the attention of serving from KV blocks.

Shapes: B rows, L positions.

In serving, documents (and, by mode, the question) are KV blocks. Each block was prefilled alone,
with a BOS that only the first block keeps, and is moved behind the block before it. The tail
attends causally to all blocks. Here one row holds all of it. A later block keeps its BOS, because
its tokens were prefilled with it: at the position before the block (rotary positions are relative),
and visible to the tokens of this block only.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import torch

from gritlm.lm.attention.block_mask import BlockSpan, lay_out, seen
from gritlm.lm.tokens import Prompt, SegmentTokenizer
from gritlm.prompts import (
    RAG_FORMS,
    READ_AGAIN,
    RagMode,
    Segment,
    for_question,
    for_rag,
    gritlm_instruction,
)
from gritlm.train.config import BlockKind, RagConfig
from gritlm.train.data import packing
from gritlm.train.data.examples import RagExample


@dataclass(frozen=True)
class Blocked(Prompt):
    """Prompt with KV blocks; tokens outside of blocks attend to all earlier visible tokens.

    Attributes:
        positions: position of each token.
        blocks: spans of the blocks, from left to right.
        unseen: indices of tokens visible in their own block only (the BOS of later blocks).
        again: indices of block tokens that are recomputed after the last block; see
            :class:`gritlm.lm.attention.block_mask.BlockLayout`.
    """

    positions: tuple[int, ...] = ()
    blocks: tuple[BlockSpan, ...] = ()
    unseen: tuple[int, ...] = ()
    again: tuple[int, ...] = ()


@dataclass(frozen=True)
class SampleForm:
    """Form of a RAG sample: its KV blocks and the strings around embedded texts.

    Attributes:
        mode: parts of the prompt that are KV blocks.
        kind: attention within a block; ignored in mode ``none``, which has no blocks.
        query_instruction: instruction of embedded questions, in plain words.
        embed_eos: string that ends embedded texts.
        read_again: number of tokens at the start of each block except the first to recompute.
    """

    mode: RagMode
    kind: BlockKind
    query_instruction: str = ""
    embed_eos: str = ""
    read_again: int = READ_AGAIN


def draw(row: RagExample, rag: RagConfig, random: Random) -> tuple[RagMode, BlockKind, list[str]]:
    """Draw mode, kind of blocks, and documents in reading order.

    The gold document (the first of the row) gets a random index among a random number of others.

    Args:
        row: the example.
        rag: settings of RAG samples.
        random: random number generator.
    """
    mode = random.choice(rag.modes)
    kind = random.choice(rag.blocks)
    gold, *others = row.documents
    others = [text for text in others if text != gold]
    documents = random.sample(others, random.randint(0, min(rag.max_documents - 1, len(others))))
    documents.insert(random.randint(0, len(documents)), gold)
    return mode, kind, documents


def sample(
    tokens: SegmentTokenizer,
    row: RagExample,
    form: SampleForm,
    *,
    documents: Sequence[str],
    max_length: int,
) -> Blocked | None:
    """Return the sample of a row as served in its mode, with the answer and its end in the loss.

    Too long a sample loses documents other than the gold one, from the first (serving puts the best
    last); then the gold document is truncated. The answer is never cut.

    Args:
        tokens: tokenizer.
        row: the example.
        form: form of the sample.
        documents: documents of the row to use, in reading order.
        max_length: maximum number of tokens, including the BOS of each block.

    Returns:
        The sample; None if not even one token of the gold document fits.
    """
    tail = _tail(tokens, row, form.mode, documents)
    parts: list[list[int]] = []
    for part in RAG_FORMS[form.mode].before:
        if part == "documents":
            parts += _embedded(tokens, documents, "", form.embed_eos)
        else:
            parts += _embedded(tokens, [row.question], form.query_instruction, form.embed_eos)
    made = _laid_out(
        parts,
        tail,
        bos=len(tokens.prefix),
        causal=form.kind == "causal",
        again=0 if form.mode == "none" else form.read_again,
    )
    if (over := len(made.ids) - max_length) <= 0:
        return plain(made) if form.mode == "none" else made
    if not (fewer := _shortened(tokens, documents, row.documents[0], over)):
        return None
    return sample(tokens, row, form, documents=fewer, max_length=max_length)


def question_sample(
    tokens: SegmentTokenizer,
    question: str,
    passage: Prompt,
    *,
    kind: BlockKind,
    max_length: int,
) -> Blocked | None:
    """Return a question after the block of one passage, with the question in the loss.

    Args:
        tokens: tokenizer.
        question: text of the question.
        passage: the passage as it is embedded.
        kind: attention within the block.
        max_length: maximum number of tokens.

    Returns:
        The sample; None if it is too long.
    """
    tail = tokens.for_chat(for_question(question), start=False)
    made = _laid_out([passage.ids], tail, bos=len(tokens.prefix), causal=kind == "causal", again=0)
    return made if len(made.ids) <= max_length else None


def plain(sample: Blocked) -> Blocked:
    """Return the same tokens without blocks, read causally, with the first BOS only.

    Number and order of the tokens in the loss stay the same.
    """
    blocks_end = sample.blocks[-1].end if sample.blocks else 0
    removed = {*sample.unseen, *range(blocks_end, blocks_end + len(sample.again))}
    kept = [index for index in range(len(sample.ids)) if index not in removed]
    return Blocked(
        [sample.ids[index] for index in kept],
        # All removed tokens are before the tokens in the loss.
        trained=tuple((start - len(removed), end - len(removed)) for start, end in sample.trained),
        positions=tuple(range(len(kept))),
    )


def rows(samples: Sequence[Blocked], *, pad: int) -> packing.PackedBatch:
    """Return one sample for each row, padded on the right; padding attends to itself only.

    Args:
        samples: the samples.
        pad: id of the padding.
    """
    made = packing.padded(samples, pad=pad)
    position_BL = made.position_BL.clone()
    seen_BLL = torch.eye(made.ids_BL.shape[1], dtype=torch.bool).repeat(len(samples), 1, 1)
    for index, sample in enumerate(samples):
        size = len(sample.ids)
        position_BL[index, :size] = torch.tensor(sample.positions)
        seen_BLL[index, :size, :size] = seen(sample)
    return replace(made, position_BL=position_BL, seen_BLL=seen_BLL)


def without_blocks(rows: packing.PackedBatch) -> packing.PackedBatch:
    """Return the rows with causal attention, as in :func:`plain`; tokens keep their indices."""
    if rows.seen_BLL is None:
        return rows
    position_BL = rows.position_BL
    # A token at a repeated position is the BOS of a later block, a recomputed token or padding.
    again_BL = torch.zeros_like(position_BL, dtype=torch.bool)
    again_BL[:, 1:] = position_BL[:, 1:] <= position_BL.cummax(dim=1).values[:, :-1]
    before_LL = torch.ones_like(rows.seen_BLL[0]).tril()
    seen_BLL = before_LL & ~again_BL[:, None, :]
    return replace(
        rows, seen_BLL=seen_BLL | torch.eye(len(before_LL), device=seen_BLL.device).bool()
    )


def _embedded(
    tokens: SegmentTokenizer, texts: Sequence[str], instruction: str, end: str
) -> list[list[int]]:
    header = gritlm_instruction(instruction)
    prompts, _ = tokens.for_embedding(texts, max_length=sys.maxsize, instruction=header, end=end)
    return [prompt.ids for prompt in prompts]


def _tail(
    tokens: SegmentTokenizer, row: RagExample, mode: RagMode, documents: Sequence[str]
) -> Prompt:
    segments = for_rag(mode, question=row.question, documents=documents)
    answer = Segment(row.answer, trained=True, end=True)
    return tokens.for_chat([*segments, answer], start=False)


def _laid_out(
    parts: Sequence[list[int]], tail: Prompt, *, bos: int, causal: bool, again: int
) -> Blocked:
    """Return the sample of blocks and tail."""
    laid = lay_out(parts, tail.ids, bos=bos, causal=causal, again=again)
    start = len(laid.ids) - len(tail.ids)
    return Blocked(
        list(laid.ids),
        trained=tuple((start + begin, start + end) for begin, end in tail.trained),
        positions=laid.positions,
        blocks=laid.blocks,
        unseen=laid.unseen,
        again=laid.again,
    )


def _shortened(
    tokens: SegmentTokenizer, documents: Sequence[str], gold: str, over: int
) -> list[str]:
    """Drop a document, or cut ``over`` tokens of the only one; return [] if it is too short."""
    if len(documents) > 1:
        drop = next((index for index, text in enumerate(documents) if text != gold), 0)
        return [*documents[:drop], *documents[drop + 1 :]]
    (text,) = documents

    def size(characters: int) -> int:
        return len(tokens.pieces([text[:characters]], first=False)[0])

    # Cut the text, not the tokens: serving the shorter text then gives the same tokens.
    room = size(len(text)) - over
    characters = bisect_right(range(len(text) + 1), room, key=size) - 1 if room > 0 else 0
    return [text[:characters]] if size(characters) else []
