"""Bulk indexing: passages and KV blocks computed by many workers, written into one workspace.

This process reads and cuts the documents and is the only writer of the workspace. Workers embed
batches of passages and return vectors and encoded blocks. With shared storage, each worker writes
its blocks there, and returns only vectors. A batch is committed as a whole, so a run that was
killed goes on: documents that are in the workspace are not embedded again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gritlm import GritLM
from gritlm.lm.kv.block import KVBlock
from gritlm.rag import AddResult, ChunkingOptions, RagEngine
from gritlm.rag.ingest.ingest import BATCH, DocumentInput, Indexer, PendingDocument, encode_passages
from gritlm.rag.kvstore import codec
from gritlm.rag.kvstore.record import RecordHeader, block_key
from gritlm.rag.kvstore.shared.shared_blocks import SharedBlocks
from gritlm.rag.kvstore.shared.shared_tier import SharedTier
from gritlm.rag.kvstore.stats import StoreStats
from gritlm.rag.types import BlockKind
from gritlm.scale import cluster
from gritlm.scale.worker_pool import WorkerPool

_IN_FLIGHT = 2  # batches of a worker: one that it computes and one that waits


@dataclass(frozen=True)
class IndexSettings:
    """Settings of the workspace and of the workers.

    Attributes:
        model: arguments of :class:`gritlm.GritLM`.
        workers: workers that embed; the most of them start.
        cutting: chunking of documents; None for that of the workspace.
        index: address of the passages, e.g. of LanceDB on S3; None for LanceDB in the workspace.
        storage: number format of KV blocks; ``auto`` for that of the workspace, or of the model.
        blocks: kind of the KV blocks; None for that of the workspace, ``causal`` if new.
        disk_bytes: most bytes of blocks on disk; None for that of the workspace.
        text_field: name of the text in rows; None for the usual names.
        progress: whether to show a bar.
        shared_blocks: storage to which the workers write KV blocks; None sends all blocks to the
            workspace.
    """

    model: dict[str, Any]
    workers: WorkerPool = field(default_factory=WorkerPool)
    cutting: ChunkingOptions | None = None
    index: str | None = None
    storage: str = "auto"
    blocks: BlockKind | None = None
    disk_bytes: int | None = None
    text_field: str | None = None
    progress: bool = False
    shared_blocks: SharedBlocks | None = None


@dataclass(frozen=True)
class IndexReport:
    """Result of bulk indexing.

    Attributes:
        added: counts of the run.
        blocks: contents of the store of KV blocks.
        passages: number of passages in the workspace.
    """

    added: AddResult
    blocks: StoreStats
    passages: int


def index(
    sources: Iterable[DocumentInput],
    workspace: str | Path,
    settings: IndexSettings,
    *,
    address: str | None = None,
    done: AddResult | None = None,
) -> IndexReport:
    """Index documents on all devices of a cluster into one workspace.

    The result is what ``RagEngine.add`` makes in one process, and is opened by ``RagEngine.open``.

    Args:
        sources: files, folders and rows, which this process reads.
        workspace: folder of the workspace, which this process writes.
        settings: settings of the workspace and of the workers.
        address: address of a Ray cluster; ``auto`` for that of this machine, None for a Ray of
            this process alone.
        done: counts to update during the run, so that they survive an interruption.

    Raises:
        MissingExtraError: without Ray.
        InputError: for sources or a workspace that cannot be used.
        ClusterError: for a cluster that cannot be used, or a worker that fails.
    """
    model = GritLM(**settings.model)
    with (
        RagEngine.open(
            workspace,
            model,
            cutting=settings.cutting,
            index=settings.index,
            storage=settings.storage,
            blocks=settings.blocks,
            disk_bytes=settings.disk_bytes,
            shared_blocks=settings.shared_blocks,
        ) as engine,
        cluster.connected(address),
    ):
        indexer = engine.indexer([engine.blocks], form=ClusterIndexer)
        assert isinstance(indexer, ClusterIndexer)
        indexer.start_workers(settings)
        try:
            added = indexer.add(
                sources,
                names=engine.names,
                done=done,
                progress=settings.progress,
                text_field=settings.text_field,
            )
            return IndexReport(added, engine.store.stats(), len(engine.index))
        finally:
            indexer.stop_workers()


@dataclass(frozen=True)
class EncodedBatch:
    """Vectors and encoded KV blocks of a batch of passages.

    Attributes:
        vectors_ND: vectors of N passages.
        headers: header of each block for the workspace.
        payloads: bytes of each of these blocks.
        shared: number of blocks in shared storage.
    """

    vectors_ND: np.ndarray
    headers: list[RecordHeader]
    payloads: list[np.ndarray]
    shared: int = 0


@dataclass(frozen=True)
class BlockSettings:
    """Settings of the KV blocks that workers encode.

    Attributes:
        kinds: kinds of the blocks.
        storage: number format.
        shared: storage for them; None returns all blocks to the caller.
    """

    kinds: tuple[str, ...]
    storage: str
    shared: SharedBlocks | None = None


class PassageWorker:
    """The actor that embeds passages and encodes their KV blocks.

    Args:
        model: arguments of :class:`gritlm.GritLM`.
        threads: number of CPU threads; None on a GPU.
        blocks: settings of the KV blocks.
        expected: hash of the weights of the workspace's model.
    """

    def __init__(
        self, model: dict[str, Any], threads: int | None, blocks: BlockSettings, expected: str
    ) -> None:
        from gritlm.errors import ModelError
        from gritlm.lm import threads as cpu_threads
        from gritlm.rag.identity import maker_of
        from gritlm.rag.plan import PromptAssembler

        if threads is not None:
            cpu_threads.keep(threads)
        self._model = GritLM(**model)
        self._maker = maker_of(self._model)
        if self._maker.model != expected:
            raise ModelError(
                f"a worker has other weights ({self._maker.model}) than this process ({expected}); "
                "pass a model that is the same on every machine, and --dtype"
            )
        self._assembler = PromptAssembler(self._model)
        self._blocks = blocks
        self._shared: SharedTier | None = None
        if blocks.shared is not None:
            self._shared = SharedTier(blocks.shared, self._maker, blocks.storage, writes=True)

    def encode(self, texts: list[str]) -> EncodedBatch:
        """Return vectors of passages, and the KV blocks that are not in shared storage.

        Args:
            texts: texts of the passages, as embedded.
        """
        vectors: list[np.ndarray] = []
        encoded: list[_Shipped] = []
        for start in range(0, len(texts), BATCH):
            vectors_ND, keyed = encode_passages(
                self._model,
                self._assembler,
                texts[start : start + BATCH],
                self._blocks.kinds,
                self._key,
                self._shared,
            )
            vectors.append(vectors_ND)
            encoded += [self._ship(key, block) for key, block in keyed]
        left = [each for each in encoded if each.written is None or not each.written.result()]
        return EncodedBatch(
            np.concatenate(vectors),
            [each.header for each in left],
            [np.frombuffer(each.payload, dtype=np.uint8) for each in left],
            len(texts) * len(self._blocks.kinds) - len(left),
        )

    def _ship(self, key: bytes, block: KVBlock) -> _Shipped:
        """Encode a block, and begin to write it to shared storage if there is any."""
        storage = self._blocks.storage
        header, payload = codec.to_record(key, block, maker=self._maker, storage=storage)
        if self._shared is None:
            return _Shipped(header, payload, None)
        return _Shipped(header, payload, self._shared.ship(header, payload, wait=True))

    def _key(self, ids: tuple[int, ...], *, causal: bool) -> bytes:
        return block_key(self._maker, ids, causal=causal, storage=self._blocks.storage)


@dataclass(frozen=True)
class _Shipped:
    """An encoded block, and whether it is in shared storage, when that is known."""

    header: RecordHeader
    payload: memoryview
    written: Future[bool] | None


class ClusterIndexer(Indexer):
    """An indexer whose batches are embedded by workers; see :func:`index`.

    Batches are committed in their order, so any number of workers makes the same table.
    """

    def start_workers(self, settings: IndexSettings) -> None:
        """Start the workers, in the order in which the cluster has room.

        Args:
            settings: settings of the workers.
        """
        import ray

        found = cluster.devices()
        if settings.model.get("device") == "cpu":
            found = replace(found, gpus=0)
        cpus = settings.workers.cpus
        room = found.gpus or max(1, found.cpus // cpus)
        number = min(settings.workers.most or settings.workers.least or room, room)
        resources = {"num_gpus": 1, "num_cpus": 1} if found.gpus else {"num_cpus": cpus}
        form: Any = ray.remote(PassageWorker).options(
            max_restarts=-1, max_task_retries=-1, **resources
        )
        threads = None if found.gpus else cpus
        maker = self.store.about.model
        blocks = BlockSettings(self.kinds, self.store.storage, settings.shared_blocks)
        self._workers: list[Any] = [
            form.remote(settings.model, threads, blocks, maker) for _ in range(number)
        ]

    def stop_workers(self) -> None:
        """End the workers."""
        import ray

        for worker in self._workers:
            ray.kill(worker)

    def _written(
        self, batches: Iterable[list[PendingDocument]], done: AddResult
    ) -> Iterator[list[PendingDocument]]:
        import ray

        waiting: deque[tuple[Any, Any, list[PendingDocument]]] = deque()
        free = [worker for _ in range(_IN_FLIGHT) for worker in self._workers]
        try:
            for batch in batches:
                if not free:
                    result, worker, oldest = waiting.popleft()
                    free.append(worker)
                    yield self._receive(ray.get(result), oldest, done)
                worker = free.pop(0)
                texts = [each.embedded for pending in batch for each in pending.passages]
                waiting.append((worker.encode.remote(texts), worker, batch))
            while waiting:
                result, _, oldest = waiting.popleft()
                yield self._receive(ray.get(result), oldest, done)
        except ray.exceptions.RayError as error:
            raise cluster.explain(error, "bulk indexing") from None

    def _receive(
        self, found: EncodedBatch, batch: list[PendingDocument], done: AddResult
    ) -> list[PendingDocument]:
        """Write the blocks and passages of a batch, and return the batch."""
        records = zip(found.headers, (each.data for each in found.payloads), strict=True)
        done.stored += self.store.put_records(records) + found.shared
        self._commit(batch, found.vectors_ND, done)
        return batch
