"""Indexing of documents in batches: passages, vectors and KV blocks.

A batch is complete when its passages are in the index, which is written last. If indexing is
interrupted, the next run repeats the incomplete batch and continues from there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from tqdm import tqdm

from gritlm.errors import InputError
from gritlm.lm.generator import PIECE
from gritlm.lm.gritlm import GritLM
from gritlm.lm.kv.block import KVBlock
from gritlm.prompts import gritlm_instruction
from gritlm.rag.cooperative import OnModel
from gritlm.rag.index.index import Index
from gritlm.rag.index.passage_table import IndexFailedError
from gritlm.rag.ingest.chunking import check, content_hash, cut
from gritlm.rag.ingest.file_ids import DocumentIds
from gritlm.rag.ingest.skips import SkippedSource, Skips
from gritlm.rag.ingest.sources import TEXTS, documents
from gritlm.rag.kvstore.errors import skipped_when_full
from gritlm.rag.kvstore.shared.shared_blocks import KnownBlocks
from gritlm.rag.kvstore.store import KVStore
from gritlm.rag.media.media_passages import ReadPiece, encode_media
from gritlm.rag.media.media_reading import MediaReading
from gritlm.rag.plan import PromptAssembler
from gritlm.rag.reuse.blocks import measured_block
from gritlm.rag.types import RESERVED, Document, Passage
from gritlm.runtime import in_a_thread_of_its_own

log = logging.getLogger(__name__)

BATCH = 64  # passages that are embedded, stored and committed together

DocumentInput = str | Path | Mapping[str, Any] | Document
Keyed = tuple[bytes, KVBlock]


@dataclass(frozen=True)
class ChunkingOptions:
    """Options for cutting documents into passages.

    Attributes:
        max_tokens: most tokens of a passage, its title included.
        overlap: most tokens that a passage repeats of the passage before.
        seconds: length of a window of sound, in seconds.
    """

    max_tokens: int = 256
    overlap: int = 0
    seconds: float = 30.0


@dataclass
class AddResult:
    """Counts of an indexing run.

    Attributes:
        documents: number of new or changed documents.
        passages: number of their passages.
        replaced: number of the documents that replaced another content.
        unchanged: number of documents that were indexed already.
        removed: number of documents whose rows are no longer in their file.
        stored: number of stored KV blocks; the store's budget may refuse some.
        cut: number of passages that new and changed documents were cut into so far.
        cut_documents: number of these documents.
        embedded: number of these passages whose vectors are computed.
        skips: sources and rows that could not be read: the first 100, and the count of all.
        seconds: duration of the run, in seconds.
    """

    documents: int = 0
    passages: int = 0
    replaced: int = 0
    unchanged: int = 0
    removed: int = 0
    stored: int = 0
    cut: int = 0
    cut_documents: int = 0
    embedded: int = 0
    skips: Skips = field(default_factory=Skips)
    seconds: float = 0.0

    @property
    def skipped(self) -> list[SkippedSource]:
        """First 100 skipped sources, with reasons."""
        return self.skips.named

    @property
    def skipped_count(self) -> int:
        """Number of all skipped sources."""
        return self.skips.count


@dataclass(frozen=True)
class PendingDocument:
    """Document to index, with its passages and the hash of its content.

    Attributes:
        document: the document.
        passages: its passages.
        content: hash of its content.
        media: images and sounds, by the ids of their passages.
    """

    document: Document
    passages: Sequence[Passage]
    content: str
    media: Mapping[str, ReadPiece] = field(default_factory=dict)


def check_cutting(cutting: ChunkingOptions, model: GritLM, assembler: PromptAssembler) -> None:
    """Refuse chunking options before anything is written.

    Raises:
        InputError: if the sizes cannot be used, or passages would be longer than the model takes.
    """
    limit = model.lm.max_positions
    if limit is not None and cutting.max_tokens > limit:
        raise InputError(
            f"passages of {cutting.max_tokens} tokens are longer than the model takes; use "
            f"max_tokens={limit} or less"
        )
    around = len(assembler.passage_ids(["a"])[0])
    check(around, max_tokens=cutting.max_tokens, overlap=cutting.overlap)


def count_tokens(assembler: PromptAssembler, texts: list[str]) -> list[int]:
    """Return the token count of each text as embedded; 0 for white space."""
    full = [text for text in texts if text.strip()]
    sizes = iter([len(ids) for ids in assembler.passage_ids(full)])
    return [next(sizes) if text.strip() else 0 for text in texts]


def _row_document_ids(files: Collection[str], ids: Iterable[str]) -> set[str]:
    """Return the document ids that belong to rows of these files."""
    if not files:  # the usual case, and ids may be many
        return set()
    return {
        name
        for name in ids
        if any(name[: mark.start()] in files for mark in re.finditer("#", name))
    }


def forget(store: KVStore, assembler: PromptAssembler, passages: Sequence[Passage]) -> None:
    """Delete the KV blocks of passages from a store; its ``gc`` frees their bytes on disk.

    The files of images and sounds stay: see :func:`forget_media`.
    """
    if passages:
        read = assembler.ids_of(passages)
        store.delete([store.key(ids, causal=causal) for ids in read for causal in (False, True)])


def forget_media(assembler: PromptAssembler, passages: Sequence[Passage]) -> None:
    """Delete the files of images and sounds, after the index no longer has their passages.

    A missing block is recomputed, a missing file is lost.
    """
    if assembler.media is not None:
        assembler.media.delete([passage.id for passage in passages])


def encode_passages(
    model: GritLM,
    assembler: PromptAssembler,
    texts: Sequence[str],
    kinds: Sequence[str],
    key: Callable[..., bytes],
    known: KnownBlocks | None = None,
) -> tuple[np.ndarray[Any, Any], list[Keyed]]:
    """Return the vectors (N, D) of passages, and their KV blocks of each kind with keys.

    Blocks that need a pass of their own, and are known already, are left out.

    Args:
        model: model that embeds them.
        assembler: prompt assembler of the same model.
        texts: the texts of N passages, as embedded.
        kinds: kinds of KV blocks.
        key: function of token ids and ``causal`` that names a block.
        known: blocks of other workspaces; None for none.
    """
    vectors_ND, blocks = model.encode(
        texts,
        instruction=gritlm_instruction(),
        get_cache=True,
        max_length=model.lm.max_positions or 1 << 20,
        show_progress_bar=False,
    )
    are_causal = model.encoder.makes_causal_blocks
    keyed: list[Keyed] = []
    for token_ids, block in zip(assembler.passage_ids(texts), blocks, strict=True):
        for kind in kinds:
            causal = kind == "causal"
            name = key(token_ids, causal=causal)
            read = block
            if causal != are_causal:
                if known is not None and known.obtain(name, len(token_ids)):
                    continue
                read = measured_block(model.lm, token_ids, causal=causal, known=known)
            keyed.append((name, read))
    return vectors_ND, keyed


class Indexer:
    """Indexer that adds documents to an index and their KV blocks to a store.

    Args:
        model: model that embeds the passages.
        index: index of the passages.
        store: store of their KV blocks.
        cutting: chunking options.
        assembler: prompt assembler of the same model.
        kinds: kinds of KV blocks to store: "bidirectional", "causal".
        on_model: runs a function on the thread that owns the model, a few passages per call; None
            if this thread owns the model.
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
        reading: MediaReading = TEXTS,
    ) -> AddResult:
        """Add new documents and replace changed ones.

        If a file of rows was read without errors, documents of its missing rows are removed.

        Args:
            sources: files, folders, rows ``{id?, title?, text, metadata?}``, or documents.
            names: names of folders added before; None to name folders in memory.
            done: counts to update during the run, so that they survive an interruption.
            progress: show a progress bar.
            text_field: name of the text in rows; see :func:`gritlm.rag.ingest.sources.documents`.
            reading: reader of files, and options for images and sounds.

        Returns:
            Counts of the run.

        Raises:
            InputError: if a path does not exist or a source has an unknown type.
        """
        started = perf_counter()
        done = AddResult() if done is None else done
        known = self.index.known()
        whole = set[str]()
        found = documents(
            sources,
            skipped=done.skips,
            names=names,
            whole=whole,
            text_field=text_field,
            reading=reading,
        )
        try:
            with tqdm(desc="indexing", unit=" passages", disable=not progress, leave=False) as bar:
                for batch in self._written(self._batches(found, known, done), done):
                    bar.update(sum(len(pending.passages) for pending in batch))
            self._remove(_row_document_ids(whole, known) - self._seen, done)
            self._store_missing_blocks(done)
            with skipped_when_full("the files of the index are not merged for now"):
                if done.documents or done.removed:
                    self.index.settle()
            with skipped_when_full("the bytes of replaced blocks are not freed"):
                if done.replaced or done.removed:
                    self.store.gc()
        finally:
            done.seconds += perf_counter() - started
        return done

    def _batches(
        self, found: Iterable[Document], known: dict[str, str], done: AddResult
    ) -> Iterator[list[PendingDocument]]:
        """Yield batches of new and changed documents with their passages."""
        batch: list[PendingDocument] = []
        size = 0
        for document in found:
            content = self._content_hash(document)
            self._seen.add(document.id)
            if known.get(document.id) == content:
                done.unchanged += 1
                self._unchanged.add(document.id)
                continue
            passages = self._cut(document)
            if not passages:
                done.skips.append(SkippedSource(document.id, "it holds no text"))
                continue
            try:
                media = self._read_media(document, passages)
            except InputError as error:
                done.skips.append(SkippedSource(document.id, str(error)))
                continue
            batch.append(PendingDocument(document, passages, content, media))
            size += len(passages)
            done.cut += len(passages)
            done.cut_documents += 1
            if size >= BATCH:
                yield batch
                batch = []
                size = 0
        if batch:
            yield batch

    def _read_media(self, document: Document, passages: Sequence[Passage]) -> dict[str, ReadPiece]:
        """Return the images and sounds of a document by the ids of their passages.

        Raises:
            InputError: for one that the model does not take, with its place.
        """
        if name := next((each for each in document.metadata if each.startswith(RESERVED)), None):
            raise InputError(
                f"metadata {name!r} begins with {RESERVED!r}, which is kept for gritlm"
            )
        library = self._assembler.media
        if document.media and (library is None or not library.has_folder):
            raise InputError("images and sounds need a workspace in a folder; use RagEngine.open")
        found = {}
        for passage, piece in zip(passages, document.media, strict=False):
            assert library is not None
            read = partial(library.prompt, passage.title, piece.place.kind, piece.data)
            try:
                prompt = read() if self._on_model is None else in_a_thread_of_its_own(read)
            except InputError as error:
                place = piece.place.label
                raise InputError(f"{place}: {error}" if place else str(error)) from None
            found[passage.id] = ReadPiece(piece, prompt.ids)
        return found

    def _written(
        self, batches: Iterable[list[PendingDocument]], done: AddResult
    ) -> Iterator[list[PendingDocument]]:
        """Yield each batch when its passages are in the index and its KV blocks in the store."""
        for batch in batches:
            passages = [passage for pending in batch for passage in pending.passages]
            # Large documents are embedded in parts too, because KV blocks take much memory.
            vectors = []
            with self._media_saved(batch):
                for start in range(0, len(passages), BATCH):
                    vectors.append(self._embed(passages[start : start + BATCH], done))
                self._commit(batch, np.concatenate(vectors), done)
            yield batch

    @contextmanager
    def _media_saved(self, batch: Sequence[PendingDocument]) -> Iterator[None]:
        """Write the images and sounds of a batch, and delete new ones if it is not committed.

        An error can follow the commit, so the index decides; if it cannot be read, they stay.
        """
        library = self._assembler.media
        if library is None:
            yield
            return
        new: list[str] = []
        try:
            for pending in batch:
                for passage in pending.passages:
                    if (read := pending.media.get(passage.id)) is not None:
                        if library.ids(passage.id) is None:
                            new.append(passage.id)  # before it is written, perhaps in part
                        data, kind = read.piece.data, read.piece.place.kind
                        library.save(passage, kind, data, read.ids)
            yield
        except BaseException:
            ids = [pending.document.id for pending in batch]
            with suppress(InputError, IndexFailedError):
                kept = {each.id for each in self.index.passages(ids, metadata=False)}
                library.delete(each for each in new if each not in kept)
            raise

    def _commit(
        self, batch: Sequence[PendingDocument], vectors_ND: np.ndarray[Any, Any], done: AddResult
    ) -> None:
        """Write the passages of a batch, whose blocks are stored, into the index."""
        passages = [passage for pending in batch for passage in pending.passages]
        contents = {pending.document.id: pending.content for pending in batch}
        replaced = contents.keys() & self.index.known().keys()
        old = list(self.index.passages(replaced, metadata=False))
        # Blocks first: a missing block is recomputed, an orphaned block would stay for ever.
        kept = {passage.id for passage in passages}
        texts = {passage.embedded for passage in passages if not self._is_media(passage)}
        gone = [p for p in old if p.id not in kept]
        gone = [p for p in gone if self._is_media(p) or p.embedded not in texts]
        forget(self.store, self._assembler, gone)
        self.index.add(list(zip(passages, vectors_ND, strict=True)), contents=contents)
        forget_media(self._assembler, gone)
        done.documents += len(batch)
        done.passages += len(passages)
        done.replaced += len(replaced)

    def _remove(self, removed_ids: Collection[str], done: AddResult) -> None:
        if not removed_ids:
            return
        gone = list(self.index.passages(removed_ids, metadata=False))
        forget(self.store, self._assembler, gone)
        self.index.delete(removed_ids)
        forget_media(self._assembler, gone)
        done.removed += len(removed_ids)

    def _store_missing_blocks(self, done: AddResult) -> None:
        """Store missing KV blocks of unchanged documents while there is room.

        After a removal, the documents of this run are included: they may share removed blocks. With
        a shared tier, missing blocks come from there at their next use, or are computed then.
        """
        if self.store.is_shared:
            return
        kept = self._seen if done.removed else self._unchanged
        candidates = self.index.passages(kept, metadata=False)
        incomplete = [passage for passage in candidates if self._lacks_blocks(passage)]
        for start in range(0, len(incomplete), BATCH):
            batch = incomplete[start : start + BATCH]
            stats = self.store.stats()
            block_bytes = stats.live_bytes // stats.blocks if stats.blocks else 0
            if (
                stats.live_bytes + stats.disk_bytes // 8 + block_bytes * len(batch)
                > stats.disk_bytes
            ):
                return  # the missing blocks were evicted
            self._embed(batch, done)

    def _lacks_blocks(self, passage: Passage) -> bool:
        (ids,) = self._assembler.ids_of([passage])
        return any(
            self.store.key(ids, causal=kind == "causal") not in self.store for kind in self.kinds
        )

    def _is_media(self, passage: Passage) -> bool:
        library = self._assembler.media
        return library is not None and library.ids(passage.id) is not None

    def _embed(self, passages: Sequence[Passage], done: AddResult) -> np.ndarray[Any, Any]:
        """Embed passages, store their KV blocks, and return the vectors (N, D)."""
        seen = [number for number, passage in enumerate(passages) if self._is_media(passage)]
        others = [number for number in range(len(passages)) if number not in set(seen)]
        vectors = [self._embed_media(passages[number], done) for number in seen]
        if others:
            texts = [passages[number].embedded for number in others]
            vectors.append(self._embed_texts(texts, done))
        place = np.argsort([*seen, *others])
        return np.concatenate(vectors)[place]

    def _embed_media(self, passage: Passage, done: AddResult) -> np.ndarray[Any, Any]:
        """Embed an image or a sound, store its KV blocks, and return its vector (1, D)."""
        library = self._assembler.media
        assert library is not None, "only a library knows which passages are media"
        known = self.store if self.store.is_shared else None
        encode = partial(
            encode_media, self.model, library, passage, self.kinds, self.store.key, known
        )
        vector_1D, blocks = encode() if self._on_model is None else self._on_model(encode)
        done.stored += self._store_blocks(blocks) + len(self.kinds) - len(blocks)
        done.embedded += 1
        return vector_1D

    def _embed_texts(self, texts: Sequence[str], done: AddResult) -> np.ndarray[Any, Any]:
        vectors: list[np.ndarray[Any, Any]] = []
        blocks: list[Keyed] = []
        shared = self._on_model is not None
        step = max(1, PIECE // self.cutting.max_tokens) if shared else BATCH
        for start in range(0, len(texts), step):
            encode = partial(self._encode_texts, texts[start : start + step])
            vectors_ND, new_blocks = encode() if self._on_model is None else self._on_model(encode)
            vectors.append(vectors_ND)
            blocks += new_blocks
            done.embedded += len(vectors_ND)
        known = len(texts) * len(self.kinds) - len(blocks)
        done.stored += self._store_blocks(blocks) + known
        return np.concatenate(vectors)

    def _encode_texts(self, texts: Sequence[str]) -> tuple[np.ndarray[Any, Any], list[Keyed]]:
        known = self.store if self.store.is_shared else None
        return encode_passages(
            self.model, self._assembler, texts, self.kinds, self.store.key, known
        )

    def _store_blocks(self, blocks: list[Keyed]) -> int:
        """Store KV blocks and return how many were admitted.

        If another thread owns the model, this runs in a thread of its own: see
        :func:`gritlm.runtime.in_a_thread_of_its_own`.
        """
        if self._on_model is None:
            return self.store.put_many(blocks)
        return in_a_thread_of_its_own(lambda: self.store.put_many(blocks))

    def _cut(self, document: Document) -> list[Passage]:
        return cut(
            document,
            tokens=partial(count_tokens, self._assembler),
            max_tokens=self.cutting.max_tokens,
            overlap=self.cutting.overlap,
        )

    def _content_hash(self, document: Document) -> str:
        return content_hash(
            document, max_tokens=self.cutting.max_tokens, overlap=self.cutting.overlap
        )
