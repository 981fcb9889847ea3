"""``gritlm index``: a document store made from files and folders."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gritlm.cli import bulk, logs, terminal
from gritlm.cli.options import (
    BlockKindOption,
    ModelOptions,
    Reader,
    SharedBlocksUri,
    connect_blocks,
)
from gritlm.errors import InputError

if TYPE_CHECKING:
    from gritlm import GritLM
    from gritlm.rag.engine import RagEngine
    from gritlm.rag.ingest.ingest import AddResult, ChunkingOptions
    from gritlm.rag.kvstore.shared.shared_blocks import SharedBlocks
    from gritlm.rag.kvstore.stats import StoreStats
    from gritlm.scale import IndexSettings


class Storage(StrEnum):
    """Data types of stored KV blocks."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"
    int4 = "int4"


@dataclass(frozen=True)
class IndexOptions:
    """Chunking, KV block storage and vector index of the store."""

    max_tokens: Annotated[
        int | None,
        typer.Option(min=8, help="New store: maximum tokens of a passage. Default: 256."),
    ] = None
    overlap: Annotated[
        int | None, typer.Option(min=0, help="New store: tokens shared by adjacent passages.")
    ] = None
    window_seconds: Annotated[
        float | None,
        typer.Option(min=0.1, help="New store: seconds of a passage of a recording. Default: 30."),
    ] = None
    storage: Annotated[Storage, typer.Option(help="New store: data type of the KV blocks.")] = (
        Storage.auto
    )
    blocks: Annotated[
        BlockKindOption | None,
        typer.Option(
            help="New store: causal blocks answer as a fresh prompt does, bidirectional ones need "
            "no second pass over the documents. Default: causal."
        ),
    ] = None
    disk_gb: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Disk budget for KV blocks, in GB. Default for a new store: 10.7."
        ),
    ] = None
    address: Annotated[
        str | None,
        typer.Option(
            "--index",
            metavar="URI",
            help="New store: database of the passages: LanceDB (s3://bucket/path), Qdrant "
            "(qdrant://host:6333/collection, or qdrant for an embedded one in the store) or "
            "PostgreSQL (postgresql://user@host/database). Default: LanceDB in the store.",
        ),
    ] = None
    shared_blocks: SharedBlocksUri = None

    def open(self, folder: Path, lm: GritLM, shared: SharedBlocks | None) -> RagEngine:
        """Open the store of a folder, or create it."""
        from gritlm.rag.engine import RagEngine

        return RagEngine.open(
            folder,
            lm,
            cutting=self.chunking(),
            index=self.address,
            storage=self.storage.value,
            blocks=None if self.blocks is None else self.blocks.value,
            disk_bytes=None if self.disk_gb is None else int(self.disk_gb * 1e9),
            shared_blocks=shared,
        )

    def shared(self) -> SharedBlocks | None:
        """Return the shared storage of KV blocks, which must be writable; None without one."""
        return connect_blocks(self.shared_blocks, to_write=True)

    def chunking(self) -> ChunkingOptions | None:
        """Return the chunking options; None, without an option, keeps those of the store."""
        from gritlm.rag.ingest.ingest import ChunkingOptions

        options = {
            "max_tokens": self.max_tokens,
            "overlap": self.overlap,
            "seconds": self.window_seconds,
        }
        given: dict[str, Any] = {n: value for n, value in options.items() if value is not None}
        return ChunkingOptions(**given) if given else None


@dataclass(frozen=True)
class FileOptions:
    """Reading of files."""

    text_field: Annotated[
        str | None,
        typer.Option(
            help="Field with the text of a row (.jsonl .json .csv .tsv). Default: text, "
            "page_content, contents or content."
        ),
    ] = None
    reader: Annotated[
        Reader,
        typer.Option(
            help="docling: PDF files, scans and images (.png .jpg .tif .bmp .webp) by docling, "
            "with layout and text recognition; slow. pages: pages of PDF files as images, for a "
            "model that reads images; pages-and-text: their text too."
        ),
    ] = Reader.standard
    pages: Annotated[
        bool,
        typer.Option("--pages", help="Embed the pages of PDF files as images: --reader pages."),
    ] = False

    def chosen(self) -> Reader:
        """Return the reader of files.

        Raises:
            InputError: for --pages and another reader.
        """
        if not self.pages:
            return self.reader
        if self.reader not in (Reader.standard, Reader.pages):
            raise InputError(f"--pages and --reader {self.reader.value}: give one of the two")
        return Reader.pages


def index(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Files (.txt .md .html .pdf .docx .pptx .xlsx .epub .jsonl .json .csv .tsv, and "
            "images and sounds for a model that reads them) or folders.",
            metavar="FOLDER...",
        ),
    ],
    *,
    to: Annotated[Path, typer.Option("--to", help="Folder of the store; created if missing.")],
    store: IndexOptions,
    files: FileOptions,
    causal: Annotated[
        bool,
        typer.Option(
            "--causal",
            help="Store causal KV blocks too, in a store of bidirectional ones.",
        ),
    ] = False,
    model: ModelOptions,
    ray: bulk.BulkRayOptions,
) -> None:
    """Split documents into passages, embed them, and store vectors, keys and values.

    Unchanged documents are skipped and changed ones are replaced. After ctrl-C, the same command
    continues the run. Files that cannot be read are skipped and listed. With --ray, the passages
    are embedded on a cluster.
    """
    ray.require_ray()
    from gritlm.rag import needs

    needs.require()
    from gritlm.rag.ingest.file_reader import require_reader

    reader = files.chosen()
    require_reader(reader.value)
    if ray.ray:
        if causal or reader is not Reader.standard:
            raise InputError("--ray takes neither --causal, --pages nor --reader; leave them out")
        settings = _ray_settings(store, files.text_field, model, ray)
        _index_on_ray(sources, to, settings, ray.cluster)
        return
    shared = store.shared()
    lm = model.load()
    from gritlm.rag.media.media_reading import require_seeing

    require_seeing(lm, reader.value)  # before a store is made
    with store.open(to, lm, shared) as engine:
        _index_here(sources, engine, files, causal=causal)


def _index_here(sources: list[str], engine: RagEngine, files: FileOptions, *, causal: bool) -> None:
    from gritlm.rag.index.passage_table import IndexFailedError
    from gritlm.rag.ingest.ingest import AddResult
    from gritlm.rag.kvstore.errors import StoreFullError

    added = AddResult()
    try:
        engine.add(
            sources,
            progress=not logs.is_quiet() and sys.stderr.isatty(),
            kinds=sorted({engine.blocks, "causal"}) if causal else None,
            done=added,
            text_field=files.text_field,
            reader=files.chosen().value,
        )
    except (KeyboardInterrupt, StoreFullError, IndexFailedError):
        _tell(added, engine.store.stats(), total=len(engine.index))
        logs.write_message(
            "stopped",
            "the added documents are in the store; the same command goes on from there",
        )
        raise
    _tell(added, engine.store.stats(), total=len(engine.index))


def _ray_settings(
    store: IndexOptions,
    text_field: str | None,
    model: ModelOptions,
    ray: bulk.BulkRayOptions,
) -> IndexSettings:
    from gritlm import scale
    from gritlm.scale.ray_library import require

    require()
    return scale.IndexSettings(
        model=bulk.model_arguments(model),
        workers=ray.pool(model.threads),
        cutting=store.chunking(),
        index=store.address,
        storage=store.storage.value,
        blocks=None if store.blocks is None else store.blocks.value,
        disk_bytes=None if store.disk_gb is None else int(store.disk_gb * 1e9),
        text_field=text_field,
        progress=not logs.is_quiet() and sys.stderr.isatty(),
        shared_blocks=store.shared(),
    )


def _index_on_ray(
    sources: list[str], to: Path, settings: IndexSettings, cluster: str | None
) -> None:
    from gritlm import scale
    from gritlm.rag import AddResult

    logs.hush_libraries()
    added = AddResult()
    try:
        report = scale.index(sources, to, settings, address=cluster, done=added)
    except KeyboardInterrupt:
        logs.write_message("stopped", "the same command goes on from there")
        raise
    _tell(added, report.blocks, total=report.passages)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _tell(added: AddResult, stats: StoreStats, *, total: int) -> None:
    for each in added.skipped:
        logs.write_message("skipped", f"{each.path}: {each.reason}")
    if more := added.skipped_count - len(added.skipped):
        logs.write_message("skipped", f"{more:,} more, which are not named")
    speed = f", {added.passages / added.seconds:.0f} a second" if added.passages else ""
    removed = f"removed: {_count(added.removed, 'document')}; " if added.removed else ""
    terminal.write(
        f"added {_count(added.documents, 'document')} ({added.replaced} of them replaced) with "
        f"{_count(added.passages, 'passage')} in {added.seconds:.1f} s{speed}\n"
        f"{removed}unchanged: {_count(added.unchanged, 'document')}; "
        f"skipped: {added.skipped_count}; the store has {_count(total, 'passage')}, "
        f"and {_count(stats.blocks, 'key/value block')} in "
        f"{stats.live_bytes / 1e9:.2f} of {stats.disk_bytes / 1e9:.1f} GB\n"
    )
    if gone := stats.refused + stats.evicted:
        logs.write_message(
            "full",
            f"{gone} blocks exceed the disk budget and will be computed when they are needed; "
            "raise --disk-gb, or index into a new store with --storage int8",
        )
