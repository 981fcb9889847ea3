"""``gritlm index``: files and folders into a store."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gritlm.cli import logs, terminal
from gritlm.cli.options import ModelOptions

if TYPE_CHECKING:
    from gritlm.rag.ingest.ingest import AddResult, ChunkingOptions
    from gritlm.rag.kvstore.stats import StoreStats


class Storage(StrEnum):
    """Number formats in which key/value blocks are stored."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"
    int4 = "int4"


def index(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Files (.txt .md .html .pdf .jsonl .json .csv .tsv) and folders of them.",
            metavar="FOLDER...",
        ),
    ],
    *,
    to: Annotated[Path, typer.Option("--to", help="Folder of the store; made if need be.")],
    max_tokens: Annotated[
        int | None, typer.Option(min=8, help="Longest passage in a new store; 256 if left out.")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(min=0, help="Tokens that passages share, in a new store.")
    ] = None,
    storage: Annotated[
        Storage, typer.Option(help="Number format of key/value blocks in a new store.")
    ] = Storage.auto,
    disk_gb: Annotated[
        float | None,
        typer.Option(min=0.001, help="Most gigabytes of key/value blocks; 10.7 in a new store."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--index",
            metavar="URI",
            help="Where LanceDB keeps the passages of a new store, e.g. s3://bucket/path; "
            "its own folder if left out.",
        ),
    ] = None,
    text_field: Annotated[
        str | None,
        typer.Option(
            help="Name of the text in rows (.jsonl .json .csv .tsv); text, page_content, contents "
            "or content if left out."
        ),
    ] = None,
    causal: Annotated[
        bool,
        typer.Option("--causal", help="Also store causal blocks: one more pass over all."),
    ] = False,
    model: ModelOptions,
) -> None:
    """Cut documents into passages, embed them, and keep what embedding leaves behind.

    What is in the store already is left alone, what has changed is replaced; a run that was cut
    short (ctrl-C, too) goes on. Files that cannot be read are skipped and named.
    """
    from gritlm.rag import needs

    needs.require()
    from gritlm.rag.engine import RagEngine
    from gritlm.rag.index.lance import IndexFailedError
    from gritlm.rag.ingest.ingest import AddResult
    from gritlm.rag.kvstore.errors import StoreFullError
    from gritlm.rag.plan import BLOCK_KINDS

    lm = model.load()
    added = AddResult()
    with RagEngine.open(
        to,
        lm,
        cutting=_cutting(max_tokens, overlap),
        index=address,
        storage=storage.value,
        disk_bytes=None if disk_gb is None else int(disk_gb * 1e9),
    ) as engine:
        try:
            engine.add(
                sources,
                progress=not logs.is_quiet() and sys.stderr.isatty(),
                kinds=BLOCK_KINDS if causal else BLOCK_KINDS[:1],
                done=added,
                text_field=text_field,
            )
        except (KeyboardInterrupt, StoreFullError, IndexFailedError):
            _tell(added, engine.store.stats(), total=len(engine.index))
            logs.say(
                "stopped", "what was told is in the store; the same command goes on from there"
            )
            raise
        _tell(added, engine.store.stats(), total=len(engine.index))


def _cutting(max_tokens: int | None, overlap: int | None) -> ChunkingOptions | None:
    """What was asked for; None leaves a known store as it is."""
    from gritlm.rag.ingest.ingest import ChunkingOptions

    if max_tokens is None and overlap is None:
        return None
    usual = ChunkingOptions()
    return ChunkingOptions(
        usual.max_tokens if max_tokens is None else max_tokens,
        usual.overlap if overlap is None else overlap,
    )


def _tell(added: AddResult, stats: StoreStats, *, total: int) -> None:
    for each in added.skipped:
        logs.say("skipped", f"{each.path}: {each.reason}")
    if more := added.skipped_count - len(added.skipped):
        logs.say("skipped", f"{more:,} more, which are not named")
    speed = f", {added.passages / added.seconds:.0f} a second" if added.passages else ""
    removed = f"removed: {added.removed} documents; " if added.removed else ""
    terminal.write(
        f"added {added.documents} documents ({added.replaced} of them replaced) with "
        f"{added.passages} passages in {added.seconds:.1f} s{speed}\n"
        f"{removed}unchanged: {added.unchanged} documents; skipped: {added.skipped_count}; "
        f"the store has {total} passages, and {stats.blocks} key/value blocks in "
        f"{stats.live_bytes / 1e9:.2f} of {stats.disk_bytes / 1e9:.1f} GB\n"
    )
    if gone := stats.refused + stats.evicted:
        logs.say(
            "full",
            f"{gone} blocks had no room and will be computed when they are asked for; "
            "allow more with --disk-gb, or index into a new store with --storage int8",
        )
