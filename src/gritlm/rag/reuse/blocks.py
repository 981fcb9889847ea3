"""Provider of the KV blocks of a prompt: from the store, or computed and stored."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import perf_counter

import torch

from gritlm.errors import InputError
from gritlm.lm.gritlm import GritLM
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.media.senses import MediaTokens
from gritlm.lm.unified import UnifiedLM
from gritlm.rag.cooperative import Checkpoint
from gritlm.rag.kvstore.errors import StoreFullError
from gritlm.rag.kvstore.shared.shared_blocks import KnownBlocks
from gritlm.rag.kvstore.store import KVStore
from gritlm.rag.media.media_library import MediaLibrary
from gritlm.rag.plan import PromptPart
from gritlm.rag.reuse.reuse_check import blocks_of
from gritlm.rag.types import BlockKind, Hit, Trace

log = logging.getLogger(__name__)


def require_kind(model: GritLM, kind: BlockKind | str) -> None:
    """Refuse bidirectional blocks of a model whose embedding pass is not that which generates.

    Args:
        model: the model.
        kind: kind of the blocks.

    Raises:
        InputError: with the kind that the model makes.
    """
    if kind == "bidirectional" and not model.shares_embedding_pass:
        raise InputError(
            "blocks='bidirectional' reuses the pass that embeds a passage, which belongs to "
            f"{model.embed_adapter} and not to the model that generates; use blocks='causal'"
        )


def measured_block(
    lm: UnifiedLM,
    ids: Sequence[int],
    *,
    causal: bool,
    known: KnownBlocks | None,
    media: Sequence[MediaTokens] = (),
) -> KVBlock:
    """Return the KV block of a text, and note the time of its prefill.

    Args:
        lm: the model.
        ids: token ids of the text.
        causal: kind of the block.
        known: takes the time; None measures nothing.
        media: images and sounds of the text.
    """
    started = perf_counter()
    block = blocks_of(lm, [ids], causal=causal, media=media)[0]
    if known is not None and known.is_shared:
        if lm.device.type == "cuda":
            torch.cuda.synchronize(lm.device)
        known.measure_prefill(len(ids), perf_counter() - started)
    return block


class BlockProvider:
    """Provider that loads or computes the KV blocks of prompt parts; only the first keeps its BOS.

    Args:
        lm: the model.
        store: store of the blocks.
        library: images and sounds of passages; None where all passages are text.
    """

    def __init__(self, lm: UnifiedLM, store: KVStore, library: MediaLibrary | None = None) -> None:
        self.lm = lm
        self.store = store
        self._library = library

    def media_of(self, ids: Sequence[int], hits: Sequence[Hit]) -> tuple[MediaTokens, ...]:
        """Return the images and sounds of a prompt, decoded again.

        Args:
            ids: token ids of the prompt.
            hits: its passages.

        Raises:
            InputError: for a passage whose file is missing or was changed.
        """
        if self._library is None or all(number >= 0 for number in ids):
            return ()
        seen = [hit.passage for hit in hits if self._library.ids(hit.passage.id) is not None]
        return tuple(each for passage in seen for each in self._library.prompt_of(passage).media)

    def of(
        self,
        parts: Sequence[PromptPart],
        *,
        causal: bool,
        question: KVBlock | None,
        trace: Trace,
        checkpoint: Checkpoint | None = None,
        reuse: bool = True,
    ) -> list[KVBlock]:
        """Return the block of each part, in order.

        Args:
            parts: parts of the prompt.
            causal: kind of the blocks.
            question: block of the pass that embedded the question, of either kind; None to compute
                it.
            trace: takes tokens and bytes of each part.
            checkpoint: checkpoint callback, called after each part.
            reuse: whether blocks are loaded from the store and kept there.
        """
        blocks = []
        for part in parts:
            if reuse:
                block = self._block(part, causal=causal, question=question, trace=trace)
            else:
                media = self.media_of(part.ids, part.hits)
                block = blocks_of(self.lm, [part.ids], causal=causal, media=media)[0]
                trace.part(part.name, tokens=part.tokens, tier="read")
            blocks.append(block[part.cut :])
            if checkpoint is not None:
                checkpoint()
        return blocks

    def _block(
        self, part: PromptPart, *, causal: bool, question: KVBlock | None, trace: Trace
    ) -> KVBlock:
        tier, block, nbytes = self._found(part, causal=causal, question=question)
        trace.part(part.name, tokens=part.tokens, tier=tier, nbytes=nbytes, read=len(part.ids))
        return block

    def _found(
        self, part: PromptPart, *, causal: bool, question: KVBlock | None
    ) -> tuple[str, KVBlock, int]:
        """Return the tier of a block, the block, and the bytes that were read for it."""
        if part.hit is None:
            if question is not None:
                return "embedding", question, question.nbytes
            block = blocks_of(self.lm, [part.ids], causal=causal)[0]
            return "computed", block, block.nbytes
        key = self.store.key(part.ids, causal=causal)
        if (found := self.store.fetch(key, tokens=len(part.ids))) is not None:
            return found.tier, found.block, found.nbytes
        block = measured_block(
            self.lm,
            part.ids,
            causal=causal,
            known=self.store,
            media=self.media_of(part.ids, part.hits),
        )
        if not self.store.read_only:
            try:
                self.store.put(key, block)
            except StoreFullError as error:  # the answer does not depend on it
                log.warning("a computed block was not stored: %s", error)
        return "computed", block, block.nbytes
