"""RAG rows -> samples that are read as they are served, in one pass.

Shapes: B rows, L positions.

When a question is answered, documents (and, by mode, the question) come as key/value blocks: each
was read by itself, begins with a BOS that only the first block keeps, and is moved behind the one
before. Then the tail is read causally over all of them. Here one row holds all of it. A later block
keeps its BOS, because its own tokens were read with it: at the position before the block (rotary
positions are relative) and seen by nobody else.
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
from gritlm.prompts import RAG_FORMS, READ_AGAIN, RagMode, Segment, for_rag, gritlm_instruction
from gritlm.train.config import BlockKind, RagConfig
from gritlm.train.data import packing
from gritlm.train.data.examples import RagExample


@dataclass(frozen=True)
class Blocked(Prompt):
    """A prompt with blocks; outside of them a token sees all before it but the unseen.

    Attributes:
        positions: of each token.
        blocks: from left to right.
        unseen: tokens (the BOS of later blocks) that are seen in their own block only.
        again: tokens of blocks that are read once more behind the last one; see
            :class:`gritlm.lm.attention.block_mask.BlockLayout`.
    """

    positions: tuple[int, ...] = ()
    blocks: tuple[BlockSpan, ...] = ()
    unseen: tuple[int, ...] = ()
    again: tuple[int, ...] = ()


def draw(row: RagExample, rag: RagConfig, random: Random) -> tuple[RagMode, BlockKind, list[str]]:
    """Mode, kind of blocks, and documents in reading order.

    The first document of the row, which answers it, gets any place among any number of others.
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
    *,
    mode: RagMode,
    kind: BlockKind,
    documents: Sequence[str],
    max_length: int,
    query_instruction: str = "",
    embed_eos: str = "",
    read_again: int = READ_AGAIN,
) -> Blocked | None:
    """The row as it is served in ``mode``, with the answer and its end trained.

    When it is too long, documents that do not answer the question are left out, the first ones
    first (the best stands last); then the end of the one that does is cut. The answer never is.

    Args:
        kind: how blocks are read; of no effect in mode ``none``, which has none.
        documents: some of the row's, in reading order.
        max_length: in tokens, those that no other block sees included.
        query_instruction: of embedded questions, as plain words.
        embed_eos: string that ends embedded texts.
        read_again: how many first tokens of each block but the first are read again.

    Returns:
        None when one token of the document has no room.
    """
    tail = _tail(tokens, row, mode, documents)
    parts: list[list[int]] = []
    for part in RAG_FORMS[mode].before:
        if part == "documents":
            parts += _embedded(tokens, documents, "", embed_eos)
        else:
            parts += _embedded(tokens, [row.question], query_instruction, embed_eos)
    made = _laid_out(
        parts,
        tail,
        bos=len(tokens.prefix),
        causal=kind == "causal",
        again=0 if mode == "none" else read_again,
    )
    if (over := len(made.ids) - max_length) <= 0:
        return plain(made) if mode == "none" else made
    if not (fewer := _shortened(tokens, documents, row.documents[0], over)):
        return None
    return sample(
        tokens,
        row,
        mode=mode,
        kind=kind,
        documents=fewer,
        max_length=max_length,
        query_instruction=query_instruction,
        embed_eos=embed_eos,
        read_again=read_again,
    )


def plain(sample: Blocked) -> Blocked:
    """The same tokens read causally without blocks, each BOS but the first left out.

    Trained tokens keep their number and order.
    """
    behind = sample.blocks[-1].end if sample.blocks else 0
    gone = {*sample.unseen, *range(behind, behind + len(sample.again))}
    kept = [index for index in range(len(sample.ids)) if index not in gone]
    return Blocked(
        [sample.ids[index] for index in kept],
        # All that is gone stands before anything that is trained.
        trained=tuple((start - len(gone), end - len(gone)) for start, end in sample.trained),
        positions=tuple(range(len(kept))),
    )


def rows(samples: Sequence[Blocked], *, pad: int) -> packing.PackedBatch:
    """One sample a row, padded on the right; padding sees itself only."""
    made = packing.padded(samples, pad=pad)
    position_BL = made.position_BL.clone()
    seen_BLL = torch.eye(made.ids_BL.shape[1], dtype=torch.bool).repeat(len(samples), 1, 1)
    for index, sample in enumerate(samples):
        size = len(sample.ids)
        position_BL[index, :size] = torch.tensor(sample.positions)
        seen_BLL[index, :size, :size] = seen(sample)
    return replace(made, position_BL=position_BL, seen_BLL=seen_BLL)


def without_blocks(rows: packing.PackedBatch) -> packing.PackedBatch:
    """Rows of the same tokens at the same places, read causally as :func:`plain` says."""
    if rows.seen_BLL is None:
        return rows
    position_BL = rows.position_BL
    # What stands at a position that was there before is the BOS of a later block, a token that is
    # read again, or padding.
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
    """Blocks one behind the other, then the tail."""
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
    """One document less, or the last one ``over`` tokens shorter; empty when that is impossible."""
    if len(documents) > 1:
        drop = next((index for index, text in enumerate(documents) if text != gold), 0)
        return [*documents[:drop], *documents[drop + 1 :]]
    (text,) = documents

    def size(characters: int) -> int:
        return len(tokens.pieces([text[:characters]], first=False)[0])

    # Cut as text, not as tokens: serving the shorter text gives the very same tokens.
    room = size(len(text)) - over
    characters = bisect_right(range(len(text) + 1), room, key=size) - 1 if room > 0 else 0
    return [text[:characters]] if size(characters) else []
