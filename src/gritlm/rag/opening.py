"""Opening of a workspace: its KV store, its index of passages, and the prompts they are for."""

from __future__ import annotations

from pathlib import Path

from gritlm.lm.gritlm import GritLM
from gritlm.rag import workspace
from gritlm.rag.identity import ModelIdentity, maker_of
from gritlm.rag.index import addresses
from gritlm.rag.index.index import Index
from gritlm.rag.ingest.ingest import check_cutting
from gritlm.rag.kvstore.errors import OtherModelError
from gritlm.rag.kvstore.store import KVStore
from gritlm.rag.plan import PromptAssembler
from gritlm.rag.reuse.blocks import require_kind


def assembler(
    model: GritLM, settings: workspace.WorkspaceSettings, longest: int | None
) -> PromptAssembler:
    """Return the prompt assembler of a workspace, whose settings must fit the model."""
    require_kind(model, settings.blocks)
    made = PromptAssembler(model, limit=longest)
    check_cutting(settings.cutting, model, made)
    return made


def stores(
    place: Path,
    settings: workspace.WorkspaceSettings,
    model: GritLM,
    *,
    storage: str,
    read_only: bool,
    disk_bytes: int | None,
    memory_bytes: int,
) -> tuple[KVStore, Index]:
    """Open the KV store and the index of a workspace: both or none.

    Raises:
        OtherModelError: with the command that indexes the documents for this model.
    """
    maker = maker_of(model)
    try:
        store = KVStore.open(
            place / workspace.BLOCKS,
            maker,
            storage=storage,
            dtype=model.dtype,
            disk_bytes=disk_bytes,
            memory_bytes=memory_bytes,
            read_only=read_only,
        )
        uri = addresses.resolved(settings.index, place, folder=workspace.PASSAGES)
        return store, _open_index(uri, maker, store, create=not read_only)
    except OtherModelError as error:
        command = workspace.index_command(place, model)
        raise OtherModelError(
            f"{error}. To index the documents for this model: {command}"
        ) from None


def _open_index(uri: str, maker: ModelIdentity, store: KVStore, *, create: bool) -> Index:
    """Open the index of passages; the store is closed when that fails."""
    try:
        return Index.open(uri, maker, create=create)
    except BaseException:
        store.close()
        raise
