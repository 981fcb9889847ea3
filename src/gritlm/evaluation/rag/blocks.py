"""Key/value blocks of documents, each embedded once while there is memory for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from gritlm.evaluation.memory import BatchSizeReducer
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.unified import UnifiedLM
from gritlm.rag.reuse.reuse_check import blocks_of

MOST_BYTES = 2**30

_Ids = tuple[int, ...]


class BlockCache:
    """What reading documents left behind; those used least lately go when it is too much.

    Args:
        causal: read in a causal pass of its own, else as the pass that embeds reads them.
        most_bytes: of keys and values that are kept.
    """

    def __init__(self, lm: UnifiedLM, *, causal: bool, most_bytes: int = MOST_BYTES) -> None:
        self.lm = lm
        self.causal = causal
        self.most_bytes = most_bytes
        self._kept: OrderedDict[_Ids, KVBlock] = OrderedDict()
        self._halver = BatchSizeReducer()

    def of(self, documents: Sequence[Sequence[int]]) -> list[KVBlock]:
        """The block of each document, BOS included.

        Args:
            documents: token ids, as :meth:`Form.embedded` makes them.

        Raises:
            RuntimeError: from torch, when one document alone is too much for the memory.
        """
        keys = [tuple(ids) for ids in documents]
        missing = [ids for ids in dict.fromkeys(keys) if ids not in self._kept]
        if missing:
            self._kept |= zip(missing, self._halver.run(self._read, missing), strict=True)
        for ids in keys:
            self._kept.move_to_end(ids)
        found = [self._kept[ids] for ids in keys]
        self._evict()
        return found

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self._kept.values())

    def _read(self, documents: Sequence[_Ids]) -> list[KVBlock]:
        return blocks_of(self.lm, documents, causal=self.causal)

    def _evict(self) -> None:
        held = self.nbytes
        while held > self.most_bytes:
            held -= self._kept.popitem(last=False)[1].nbytes
