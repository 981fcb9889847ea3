"""Workspace of an engine: the folder with its settings, index, KV store and measurements."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
import transformers

from gritlm.atomic import is_temporary, replacing
from gritlm.errors import InputError, choice
from gritlm.lm import threads
from gritlm.lm.gritlm import GritLM
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.rag.cooperative import Checkpoint
from gritlm.rag.identity import maker_of
from gritlm.rag.index import addresses, repair, schema
from gritlm.rag.index.databases import table_repair
from gritlm.rag.index.index import Index, IndexedDocument
from gritlm.rag.index.lance_errors import lance_errors
from gritlm.rag.index.repair import Health, Mended
from gritlm.rag.index.table import open_table
from gritlm.rag.ingest import file_ids
from gritlm.rag.ingest.ingest import ChunkingOptions
from gritlm.rag.kvstore import manifest
from gritlm.rag.kvstore.opening import refused
from gritlm.rag.media import media_library
from gritlm.rag.media.media_library import MediaLibrary
from gritlm.rag.media.media_passages import vectors_of
from gritlm.rag.reuse import reuse_check as checking
from gritlm.rag.reuse.reuse_check import ReuseCheck
from gritlm.rag.types import BLOCK_KINDS, BlockKind, Passage
from gritlm.rag.workspace_marker import FORMAT, NAME
from gritlm.runtime import private_folder

CHECKED = "parity.json"
BLOCKS = "kv"
PASSAGES = "index"
# Files of a workspace that has lost its settings.
OURS = {
    CHECKED,
    BLOCKS,
    PASSAGES,
    media_library.FOLDER,
    addresses.EMBEDDED_QDRANT,
    file_ids.FILE,
    "cost.json",
}


@dataclass(frozen=True)
class WorkspaceSettings:
    """Settings that stay the same for the life of a workspace.

    Attributes:
        cutting: chunking of documents.
        index: address of the passages; None for LanceDB in the workspace, ``qdrant`` for an
            embedded Qdrant there.
        blocks: kind of the stored KV blocks.
    """

    cutting: ChunkingOptions
    index: str | None = None
    blocks: BlockKind = "causal"


def exists(place: Path) -> bool:
    """Return whether a folder is a workspace."""
    return (place / NAME).is_file()


def require(place: Path) -> None:
    """Require that a folder is a workspace.

    Raises:
        InputError: when it is not.
    """
    if not exists(place):
        raise InputError(
            f"{place}: there is no store here; make one with: gritlm index FOLDER --to {place}"
        )


def documents(place: Path) -> list[IndexedDocument]:
    """Return the documents of a workspace in the order of their ids; no model is loaded.

    Raises:
        InputError: when the folder is not a workspace.
        IndexFailedError: when the index cannot be read.
    """
    require(place)
    with Index.open(address(place), None, create=False) as index:
        return index.documents()


def address(place: Path) -> str:
    """Return the address of the table of passages."""
    return addresses.resolved(settings(place).index, place, folder=PASSAGES)


def delete_orphaned_media(place: Path) -> int:
    """Delete files of images and sounds without a passage, and return their bytes.

    Nothing is deleted if the table has damaged rows, which may be theirs.

    Args:
        place: folder of a workspace that no other process writes to.

    Raises:
        IndexFailedError: when the index cannot be read.
    """
    folder = place / media_library.FOLDER
    if not folder.is_dir() or not any(folder.iterdir()):
        return 0
    with Index.open(address(place), None, create=False) as index:
        known = {passage.id for passage in index.passages(metadata=False)}
        return 0 if index.damages else media_library.delete_orphans(place, known)


def examine(place: Path) -> Health:
    """Read the whole table of a workspace and compare its checksums.

    Raises:
        IndexFailedError: when it cannot be opened.
    """
    uri = address(place)
    if addresses.is_lance(uri):
        return repair.examine(uri, open_table(uri, None, create=False))
    with closing(addresses.open_table(uri, None, create=False)) as table:
        return table_repair.examine(table)


def rebuild(place: Path, load: Callable[[], GritLM]) -> Mended:
    """Rebuild the table of a workspace from its sound rows.

    A row of LanceDB with a damaged vector is embedded again; in other databases its document is
    removed.

    Args:
        place: folder of the workspace.
        load: loads the model of the workspace; it is called for rows with a damaged vector.

    Raises:
        IndexFailedError: when the new table cannot be written.
        InputError: when the loaded model is not the model of the workspace.
    """

    def embed(passages: list[Passage]) -> np.ndarray:
        model = load()
        with lance_errors(address(place)):
            found = open_table(address(place), None, create=False).schema
        schema.check_maker(found, maker_of(model), place=address(place))
        library = MediaLibrary(model, SegmentTokenizer(model.tokenizer), place)
        return vectors_of(model, library, passages)

    if addresses.is_lance(address(place)):
        return repair.rebuild(address(place), embed)
    with closing(addresses.open_table(address(place), None, create=False)) as table:
        return table_repair.rebuild(table)


def may_open(place: Path, model: GritLM) -> bool:
    """Return whether a model made the KV blocks of a workspace; True for a new workspace.

    Raises:
        InputError: when the manifest of the blocks cannot be read.
    """
    found = manifest.read(place / BLOCKS)
    if found is None:
        return True
    maker = maker_of(model)
    return (maker.model, maker.digest) == (found.model, found.digest)


def index_command(place: Path, model: GritLM) -> str:
    """Return the command that indexes documents again for a model, next to another's workspace."""
    words = ["gritlm", "index", "DOCUMENTS", "--to", f"{place}-new", "--model", model.source]
    if model.adapter:
        words += ["--adapter", model.adapter]
    if model.embed_adapter:
        words += ["--embed-adapter", model.embed_adapter]
    return " ".join(shlex.quote(str(word)) for word in words)


def make(place: Path) -> None:
    """Make the folder of a workspace, with access for this user only.

    Raises:
        StoreFullError: when the disk is full.
        InputError: when the folder cannot be made.
    """
    try:
        private_folder(place)
    except OSError as error:
        raise refused(place, error, to_be="made") from None


def keep(place: Path, settings: WorkspaceSettings) -> None:
    """Write the settings of a new workspace."""
    if not exists(place):
        _write(place / NAME, {"format": FORMAT} | asdict(settings))


def settings(
    place: Path,
    *,
    cutting: ChunkingOptions | None = None,
    index: str | None = None,
    blocks: BlockKind | None = None,
) -> WorkspaceSettings:
    """Return the settings of a workspace, or the given ones for a new workspace.

    Args:
        place: folder of the workspace.
        cutting: expected chunking; None accepts any.
        index: expected address of the table; None accepts any.
        blocks: expected kind of the stored blocks; None accepts any.

    Raises:
        InputError: when the workspace has other settings, cannot be read, or the folder holds
            other files.
    """
    if index is not None:
        addresses.check(index)
    if not exists(place):
        names = (p.name for p in place.iterdir()) if place.is_dir() else [place.name]
        others = sorted(name for name in names if name not in OURS and not _left_over(name))
        if place.exists() and others:
            raise InputError(
                f"{place} holds something else ({others[0]}); name an empty or a new folder"
            )
        return WorkspaceSettings(cutting or ChunkingOptions(), index, blocks or "causal")
    found = _read(place / NAME)
    pairs = (
        ("cutting", cutting, found.cutting),
        ("index", index, found.index),
        ("blocks", blocks, found.blocks),
    )
    for name, expected, kept in pairs:
        if expected is not None and expected != kept:
            raise InputError(
                f"{place} was made with {name}={kept}, not {expected}: leave it out, or index into "
                "another folder"
            )
    return found


def machine(model: GritLM) -> str:
    """Return a name of model and machine that changes when times may change."""
    about = [
        model.lm.fingerprint,
        str(model.device),
        str(model.dtype),
        _processor(model),
        str(threads.most()),
        torch.__version__,
    ]
    return " ".join(about)


def _processor(model: GritLM) -> str:
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return f"{platform.node()} {platform.machine()}"


def parity(
    model: GritLM, place: Path | None, *, bos: tuple[int, ...], checkpoint: Checkpoint | None = None
) -> ReuseCheck:
    """Return the result of the reuse check of a model, for the worse of both kinds of blocks.

    It is read from the workspace, or measured and written there.

    Args:
        model: the model.
        place: folder of the workspace; None keeps no result.
        bos: token ids at the beginning of every text.
        checkpoint: checkpoint callback; None where no other work waits for the model.
    """
    about = f"{machine(model)} transformers {transformers.__version__} both kinds"
    if place is not None and (known := _known(place / CHECKED, about)) is not None:
        return known
    found = max(
        (
            checking.check(model.lm, bos=bos, causal=causal, checkpoint=checkpoint)
            for causal in (False, True)
        ),
        key=attrgetter("difference"),
    )
    if place is not None:
        with suppress(OSError):  # a read-only folder: the next process checks again
            _write(place / CHECKED, {"about": about} | asdict(found))
    return found


def _known(path: Path, about: str) -> ReuseCheck | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["about"] != about:
            return None
        return ReuseCheck(content["difference"], content["tolerance"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _read(path: Path) -> WorkspaceSettings:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise InputError(f"{path}: format {content['format']!r}; this version reads {FORMAT!r}")
        cutting = ChunkingOptions(**content["cutting"])
        # Earlier versions stored the blocks of the embedding pass.
        blocks = content.get("blocks", "bidirectional")
        choice(blocks, BLOCK_KINDS, name="blocks")
        return WorkspaceSettings(cutting, content["index"], blocks)
    except (OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({error}); index into a new folder") from None


def _left_over(name: str) -> bool:
    """Return whether a file is the temporary file of a process that died while writing."""
    return is_temporary(name, of={*OURS, NAME})


def _write(path: Path, content: dict[str, object]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
