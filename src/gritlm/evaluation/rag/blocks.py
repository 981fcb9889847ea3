"""Cache of the KV blocks of documents, bounded in bytes.

Questions of a RAG task share documents; the settings ``cached`` and ``cached causal`` compute the
blocks of each document once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from gritlm.evaluation.memory import BatchSizeReducer
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.unified import UnifiedLM
from gritlm.rag.reuse.reuse_check import blocks_of

MOST_BYTES = 2**30  # default size of a cache

_Ids = tuple[int, ...]


class BlockCache:
    """Least-recently-used cache of the KV blocks of documents.

    Args:
        lm: model that computes the blocks.
        causal: compute the blocks in a causal pass; if False, in the pass that embeds.
        most_bytes: largest size of the kept keys and values, in bytes.
    """

    def __init__(self, lm: UnifiedLM, *, causal: bool, most_bytes: int = MOST_BYTES) -> None:
        self.lm = lm
        self.causal = causal
        self.most_bytes = most_bytes
        self._kept: OrderedDict[_Ids, KVBlock] = OrderedDict()
        self._reducer = BatchSizeReducer()

    def of(self, documents: Sequence[Sequence[int]]) -> list[KVBlock]:
        """Return the block of each document, BOS included.

        Args:
            documents: token ids of each document, from :meth:`PromptFormat.embedded`.

        Raises:
            RuntimeError: from torch, if a single document does not fit in memory.
        """
        keys = [tuple(ids) for ids in documents]
        missing = [ids for ids in dict.fromkeys(keys) if ids not in self._kept]
        if missing:
            self._kept |= zip(missing, self._reducer.run(self._compute, missing), strict=True)
        for ids in keys:
            self._kept.move_to_end(ids)
        found = [self._kept[ids] for ids in keys]
        self._evict()
        return found

    @property
    def nbytes(self) -> int:
        """Size of the kept blocks in bytes."""
        return sum(block.nbytes for block in self._kept.values())

    def _compute(self, documents: Sequence[_Ids]) -> list[KVBlock]:
        return blocks_of(self.lm, documents, causal=self.causal)

    def _evict(self) -> None:
        held = self.nbytes
        while held > self.most_bytes:
            held -= self._kept.popitem(last=False)[1].nbytes
