"""Documents -> passages, vectors and key/value blocks, a batch at a time.

A batch is acknowledged when its passages are in the index, which is written last: what is cut short
before is done again, what came after it goes on where it stopped.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from tqdm import tqdm

from gritlm.errors import InputError
from gritlm.lm.gritlm import GritLM
from gritlm.lm.kv.block import KVBlock
from gritlm.prompts import gritlm_instruction
from gritlm.rag.cooperative import SHARING, OnModel
from gritlm.rag.index.index import Index
from gritlm.rag.ingest.chunking import check, content_hash, cut
from gritlm.rag.ingest.file_ids import DocumentIds
from gritlm.rag.ingest.skips import SkippedSource, Skips
from gritlm.rag.ingest.sources import documents
from gritlm.rag.kvstore.errors import StoreFullError
from gritlm.rag.kvstore.store import KVStore
from gritlm.rag.plan import PromptAssembler
from gritlm.rag.reuse.reuse_check import blocks_of
from gritlm.rag.types import Document, Passage
from gritlm.runtime import in_a_thread_of_its_own

log = logging.getLogger(__name__)

BATCH = 64  # passages that are read, stored and acknowledged together

DocumentInput = str | Path | Mapping[str, Any] | Document
Keyed = tuple[bytes, KVBlock]


@dataclass(frozen=True)
class ChunkingOptions:
    """How documents are cut into passages.

    Attributes:
        max_tokens: of a passage, its title included.
        overlap: tokens that a passage repeats of the one before it.
    """

    max_tokens: int = 256
    overlap: int = 0


@dataclass
class AddResult:
    """What adding came to.

    Attributes:
        documents, passages: that are new.
        replaced: of the documents, those that were known with another content.
        unchanged: documents that were known already.
        removed: documents that were rows of a file and are so no more.
        stored: passages whose key/value blocks were stored; the budget may refuse some.
        skips: sources and rows that could not be read: the first 100, and how many in all.
    """

    documents: int = 0
    passages: int = 0
    replaced: int = 0
    unchanged: int = 0
    removed: int = 0
    stored: int = 0
    skips: Skips = field(default_factory=Skips)
    seconds: float = 0.0

    @property
    def skipped(self) -> list[SkippedSource]:
        """The first 100 that were skipped, with the reasons."""
        return self.skips.named

    @property
    def skipped_count(self) -> int:
        """How many were skipped in all."""
        return self.skips.count


@dataclass(frozen=True)
class Piece:
    """A document as it goes in: with its passages, and the hash of its content."""

    document: Document
    passages: Sequence[Passage]
    content: str


def check_cutting(cutting: ChunkingOptions, model: GritLM, assembler: PromptAssembler) -> None:
    """Refuse a way of cutting before anything is written.

    Raises:
        InputError: for numbers that make no passages, or passages longer than the model takes.
    """
    limit = model.lm.max_positions
    if limit is not None and cutting.max_tokens > limit:
        raise InputError(
            f"passages of {cutting.max_tokens} tokens are longer than the model takes; use "
            f"max_tokens={limit} or less"
        )
    around = len(assembler.passage_ids(["a"])[0])
    check(around, max_tokens=cutting.max_tokens, overlap=cutting.overlap)


def _rows_of(files: Collection[str], ids: Iterable[str]) -> set[str]:
    """The ids that rows of some files are known by."""
    if not files:  # as a rule: the ids are all that a store knows
        return set()
    return {
        name
        for name in ids
        if any(name[: place.start()] in files for place in re.finditer("#", name))
    }


def forget(store: KVStore, assembler: PromptAssembler, passages: Sequence[Passage]) -> None:
    """Take the blocks of passages out of a store; its ``gc`` takes them off the disk."""
    if passages:
        read = assembler.passage_ids([passage.embedded for passage in passages])
        store.delete([store.key(ids, causal=causal) for ids in read for causal in (False, True)])


@contextmanager
def skipped_when_full(consequence: str) -> Iterator[None]:
    """Log a full disk instead of failing, in work that only saves space or time."""
    try:
        yield
    except StoreFullError as error:
        log.warning("%s: %s", consequence, error)


class Indexer:
    """Adds documents to an index and a store.

    Args:
        assembler: of the same model.
        kinds: kinds of key/value blocks that are stored.
        on_model: runs everything that uses the model, a few passages in each call; None where this
            thread owns the model.
    """

    def __init__(
        self,
        model: GritLM,
        index: Index,
        store: KVStore,
        cutting: ChunkingOptions,
        assembler: PromptAssembler,
        *,
        kinds: Sequence[str] = ("bidirectional",),
        on_model: OnModel | None = None,
    ) -> None:
        self.model = model
        self.index = index
        self.store = store
        self.cutting = cutting
        self.kinds = tuple(kinds)
        self._assembler = assembler
        self._on_model = on_model
        self._unchanged: set[str] = set()
        self._seen: set[str] = set()

    def add(
        self,
        sources: Iterable[DocumentInput],
        *,
        names: DocumentIds | None = None,
        done: AddResult | None = None,
        progress: bool = False,
        text_field: str | None = None,
    ) -> AddResult:
        """Add what is not known yet; a document whose content has changed is replaced.

        Of a file of rows that was read without a fault, rows that are gone are removed.

        Args:
            names: of folders that were added before.
            done: takes what was done as it goes; who is interrupted finds it there.
            text_field: see :func:`gritlm.rag.ingest.sources.documents`.
        """
        started = perf_counter()
        done = AddResult() if done is None else done
        known = self.index.known()
        whole = set[str]()
        found = documents(
            sources, skipped=done.skips, names=names, whole=whole, text_field=text_field
        )
        try:
            with tqdm(desc="indexing", unit=" passages", disable=not progress, leave=False) as bar:
                for batch in self._batches(found, known, done):
                    self._write(batch, done)
                    bar.update(sum(len(piece.passages) for piece in batch))
            self._remove(_rows_of(whole, known) - self._seen, done)
            self._mend(done)
            with skipped_when_full("the files of the index stay apart for now"):
                if done.documents or done.removed:
                    self.index.settle()
            with skipped_when_full("bytes of replaced blocks are not given back"):
                if done.replaced or done.removed:
                    self.store.gc()
        finally:
            done.seconds += perf_counter() - started
        return done

    def _batches(
        self, found: Iterable[Document], known: dict[str, str], done: AddResult
    ) -> Iterator[list[Piece]]:
        """Documents with their passages, whole documents in a batch."""
        batch: list[Piece] = []
        size = 0
        for document in found:
            content = self._content(document)
            self._seen.add(document.id)
            if known.get(document.id) == content:
                done.unchanged += 1
                self._unchanged.add(document.id)
                continue
            passages = self._cut(document)
            if not passages:
                done.skips.append(SkippedSource(document.id, "it holds no text"))
                continue
            batch.append(Piece(document, passages, content))
            size += len(passages)
            if size >= BATCH:
                yield batch
                batch = []
                size = 0
        if batch:
            yield batch

    def _write(self, batch: Sequence[Piece], done: AddResult) -> None:
        passages = [passage for piece in batch for passage in piece.passages]
        # A document of thousands of passages is read in parts, too: blocks take memory.
        vectors = []
        for start in range(0, len(passages), BATCH):
            vectors.append(self._read(passages[start : start + BATCH], done))
        contents = {piece.document.id: piece.content for piece in batch}
        replaced = contents.keys() & self.index.known().keys()
        old = list(self.index.passages(replaced, metadata=False))
        # First the blocks: one that is missing is computed, one that is left would never go.
        kept = {passage.embedded for passage in passages}
        forget(self.store, self._assembler, [p for p in old if p.embedded not in kept])
        self.index.add(list(zip(passages, np.concatenate(vectors), strict=True)), contents=contents)
        done.documents += len(batch)
        done.passages += len(passages)
        done.replaced += len(replaced)

    def _remove(self, gone: Collection[str], done: AddResult) -> None:
        if not gone:
            return
        forget(self.store, self._assembler, list(self.index.passages(gone, metadata=False)))
        self.index.delete(gone)
        done.removed += len(gone)

    def _mend(self, done: AddResult) -> None:
        """Store the blocks that passages lack, while there is room.

        Those of unchanged documents; after a removal, which takes blocks that a new document may
        have too, those of all that were seen.
        """
        kept = self._seen if done.removed else self._unchanged
        there = self.index.passages(kept, metadata=False)
        lacking = [passage for passage in there if self._lacks(passage)]
        for start in range(0, len(lacking), BATCH):
            some = lacking[start : start + BATCH]
            stats = self.store.stats()
            each = stats.live_bytes // stats.blocks if stats.blocks else 0
            if stats.live_bytes + stats.disk_bytes // 8 + each * len(some) > stats.disk_bytes:
                return  # what is lacking had to go
            self._read(some, done)

    def _lacks(self, passage: Passage) -> bool:
        (ids,) = self._assembler.passage_ids([passage.embedded])
        return any(
            self.store.key(ids, causal=kind == "causal") not in self.store for kind in self.kinds
        )

    def _read(self, passages: Sequence[Passage], done: AddResult) -> np.ndarray[Any, Any]:
        """Vectors (N, D) of some passages; their blocks go to the store."""
        texts = [passage.embedded for passage in passages]
        vectors: list[np.ndarray[Any, Any]] = []
        blocks: list[Keyed] = []
        shared = self._on_model is not None
        step = max(1, SHARING // self.cutting.max_tokens) if shared else BATCH
        for start in range(0, len(texts), step):
            encode = partial(self._encoded, texts[start : start + step])
            vectors_ND, made = encode() if self._on_model is None else self._on_model(encode)
            vectors.append(vectors_ND)
            blocks += made
        done.stored += self._stored(blocks)
        return np.concatenate(vectors)

    def _encoded(self, texts: Sequence[str]) -> tuple[np.ndarray[Any, Any], list[Keyed]]:
        """Return the vectors of some texts, and their blocks of each kind with their keys."""
        vectors_ND, blocks = self.model.encode(
            texts,
            instruction=gritlm_instruction(),
            get_cache=True,
            max_length=self.model.lm.max_positions or 1 << 20,
            show_progress_bar=False,
        )
        return vectors_ND, list(self._kept(self._assembler.passage_ids(texts), blocks))

    def _stored(self, blocks: list[Keyed]) -> int:
        """Store blocks and return how many are there.

        A thread that shares the model with another one must not multiply and stay: see
        :func:`gritlm.runtime.in_a_thread_of_its_own`.
        """
        if self._on_model is None:
            return self.store.put_many(blocks)
        return in_a_thread_of_its_own(lambda: self.store.put_many(blocks))

    def _kept(self, ids: Sequence[tuple[int, ...]], blocks: Sequence[KVBlock]) -> Iterator[Keyed]:
        embeds_causally = self.model.settings.embeds_causally
        for each, block in zip(ids, blocks, strict=True):
            for kind in self.kinds:
                causal = kind == "causal"
                read = block
                if causal != embeds_causally:
                    read = blocks_of(self.model.lm, [each], causal=causal)[0]
                yield self.store.key(each, causal=causal), read

    def _cut(self, document: Document) -> list[Passage]:
        return cut(
            document,
            tokens=self._count,
            max_tokens=self.cutting.max_tokens,
            overlap=self.cutting.overlap,
        )

    def _count(self, texts: list[str]) -> list[int]:
        """Tokens of each text as it is embedded; none for one without text."""
        full = [text for text in texts if text.strip()]
        sizes = iter([len(ids) for ids in self._assembler.passage_ids(full)])
        return [next(sizes) if text.strip() else 0 for text in texts]

    def _content(self, document: Document) -> str:
        return content_hash(
            document, max_tokens=self.cutting.max_tokens, overlap=self.cutting.overlap
        )
