"""Parts of a prompt -> their key/value blocks: from the store, or computed and stored."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from gritlm.lm.kv.block import KVBlock
from gritlm.lm.unified import UnifiedLM
from gritlm.rag.cooperative import Checkpoint
from gritlm.rag.kvstore.errors import StoreFullError
from gritlm.rag.kvstore.store import KVStore
from gritlm.rag.plan import PromptPart
from gritlm.rag.reuse.reuse_check import blocks_of
from gritlm.rag.trace import Trace

log = logging.getLogger(__name__)


class BlockProvider:
    """Blocks of parts, each without the BOS that only the first one keeps."""

    def __init__(self, lm: UnifiedLM, store: KVStore) -> None:
        self.lm = lm
        self.store = store

    def of(
        self,
        parts: Sequence[PromptPart],
        *,
        causal: bool,
        question: KVBlock | None,
        trace: Trace,
        checkpoint: Checkpoint | None = None,
    ) -> list[KVBlock]:
        """The block of each part, in order.

        Args:
            causal: kind of blocks.
            question: what embedding the question left behind; None when that is unknown.
            checkpoint: called behind each part, for who shares the model's thread.
        """
        blocks = []
        for part in parts:
            block = self._block(part, causal=causal, question=question, trace=trace)
            blocks.append(block[part.cut :])
            if checkpoint is not None:
                checkpoint()
        return blocks

    def missing(self, parts: Sequence[PromptPart], *, causal: bool) -> list[int]:
        """Tokens of each part that would have to be computed."""
        documents = [part for part in parts if part.hit is not None]
        return [
            len(part.ids)
            for part in documents
            if self.store.key(part.ids, causal=causal) not in self.store
        ]

    def _block(
        self, part: PromptPart, *, causal: bool, question: KVBlock | None, trace: Trace
    ) -> KVBlock:
        tier, block, nbytes = self._found(part, causal=causal, question=question)
        trace.part(part.name, tokens=part.tokens, tier=tier, nbytes=nbytes, read=len(part.ids))
        return block

    def _found(
        self, part: PromptPart, *, causal: bool, question: KVBlock | None
    ) -> tuple[str, KVBlock, int]:
        """Where it comes from, the block, and the bytes that were read for it."""
        if part.hit is None:
            if question is not None and question.causal == causal:
                return "embedding", question, question.nbytes
            block = blocks_of(self.lm, [part.ids], causal=causal)[0]
            return "computed", block, block.nbytes
        key = self.store.key(part.ids, causal=causal)
        if (found := self.store.fetch(key)) is not None:
            return found.tier, found.block, found.nbytes
        block = blocks_of(self.lm, [part.ids], causal=causal)[0]
        if not self.store.read_only:
            try:
                self.store.put(key, block)
            except StoreFullError as error:  # the answer does not need it on the disk
                log.warning("a block was computed and not stored: %s", error)
        return "computed", block, block.nbytes
