"""The folder of an engine: how documents are cut, where the index is, what was measured."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
import transformers

from gritlm.errors import InputError
from gritlm.lm.gritlm import GritLM
from gritlm.prompts import gritlm_instruction
from gritlm.rag.cooperative import Checkpoint
from gritlm.rag.identity import maker_of
from gritlm.rag.index import lance, repair, schema
from gritlm.rag.index.index import Index, IndexedDocument
from gritlm.rag.index.lance import told
from gritlm.rag.index.repair import Health, Mended
from gritlm.rag.ingest import file_ids
from gritlm.rag.ingest.ingest import ChunkingOptions
from gritlm.rag.kvstore.opening import refused
from gritlm.rag.reuse import reuse_check as checking
from gritlm.rag.reuse.reuse_check import ReuseCheck
from gritlm.rag.workspace_marker import FORMAT, NAME
from gritlm.runtime import is_temporary, private_folder, replacing

CHECKED = "parity.json"
BLOCKS = "kv"
PASSAGES = "index"
# what a folder may hold that has lost its settings
OURS = {CHECKED, BLOCKS, PASSAGES, file_ids.FILE, "cost.json"}


@dataclass(frozen=True)
class WorkspaceSettings:
    """What stays the same for the life of a folder.

    Attributes:
        index: address of the passages; None for a folder in this one.
    """

    cutting: ChunkingOptions
    index: str | None = None


def exists(place: Path) -> bool:
    """Whether an engine was opened for writing here before."""
    return (place / NAME).is_file()


def require(place: Path) -> None:
    """
    Raises:
        InputError: where no engine was opened before.
    """
    if not exists(place):
        raise InputError(
            f"{place}: there is no store here; make one with: gritlm index FOLDER --to {place}"
        )


def documents(place: Path) -> list[IndexedDocument]:
    """What the store in a folder holds, in the order of ids; it takes no model to tell.

    Raises:
        InputError: where there is no store.
        IndexFailedError: for one that cannot be read.
    """
    require(place)
    return Index.open(address(place), None, create=False).documents()


def address(place: Path) -> str:
    """Return where the table of a store is."""
    return settings(place, cutting=None, index=None).index or str(place / PASSAGES)


def examine(place: Path) -> Health:
    """Read the whole table of a store and compare its checksums.

    Raises:
        IndexFailedError: when it cannot be opened.
    """
    return repair.examine(address(place), lance.opened(address(place), None, create=False))


def rebuild(place: Path, load: Callable[[], GritLM]) -> Mended:
    """Make the table of a store again from its sound rows.

    Args:
        load: the model that made it, for rows whose vector is damaged.

    Raises:
        IndexFailedError: when it cannot be written.
        InputError: when another model is loaded than the one that made it.
    """

    def embed(texts: list[str]) -> np.ndarray:
        model = load()
        with told(address(place)):
            found = lance.opened(address(place), None, create=False).schema
        schema.check_maker(found, maker_of(model), place=address(place))
        longest = model.lm.max_positions or 1 << 20
        vectors_ND = model.encode(
            texts,
            instruction=gritlm_instruction(),
            max_length=longest,
            show_progress_bar=False,
        )
        return np.asarray(vectors_ND)

    return repair.rebuild(address(place), embed)


def make(place: Path) -> None:
    """Make the folder, for this user alone.

    Raises:
        StoreFullError: when the disk takes no more.
        InputError: when it cannot be made.
    """
    try:
        private_folder(place)
    except OSError as error:
        raise refused(place, error, to_be="made") from None


def keep(place: Path, settings: WorkspaceSettings) -> None:
    """Settle the settings of a new folder."""
    if not exists(place):
        _write(place / NAME, {"format": FORMAT} | asdict(settings))


def settings(
    place: Path, *, cutting: ChunkingOptions | None, index: str | None
) -> WorkspaceSettings:
    """The settings of a folder; those that are handed in for a new one.

    Raises:
        InputError: when the folder has others, cannot be read, or holds other things.
    """
    if not exists(place):
        names = (p.name for p in place.iterdir()) if place.is_dir() else [place.name]
        others = sorted(name for name in names if name not in OURS and not _left_over(name))
        if place.exists() and others:
            raise InputError(
                f"{place} holds something else ({others[0]}); name an empty or a new folder"
            )
        return WorkspaceSettings(cutting or ChunkingOptions(), index)
    found = _read(place / NAME)
    for name, said, kept in (("cutting", cutting, found.cutting), ("index", index, found.index)):
        if said is not None and said != kept:
            raise InputError(
                f"{place} was made with {name}={kept}, not {said}: leave it out, or index into "
                "another folder"
            )
    return found


def machine(model: GritLM) -> str:
    """Model and machine, as far as times depend on them."""
    about = [
        model.lm.fingerprint,
        str(model.device),
        str(model.dtype),
        _processor(model),
        str(torch.get_num_threads()),
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
    """What the check of this model came to, for the worse of both kinds of blocks.

    It is known from before, or made now and kept.

    Args:
        checkpoint: called now and then, for who shares the model's thread.
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
        with suppress(OSError):  # a folder that may only be read: it is checked again next time
            _write(place / CHECKED, {"about": about} | asdict(found))
    return found


def _known(path: Path, about: str) -> ReuseCheck | None:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return ReuseCheck(said["difference"], said["tolerance"]) if said["about"] == about else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _read(path: Path) -> WorkspaceSettings:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["format"] != FORMAT:
            raise InputError(f"{path}: format {said['format']!r}; this version reads {FORMAT!r}")
        return WorkspaceSettings(ChunkingOptions(**said["cutting"]), said["index"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({error}); index into a new folder") from None


def _left_over(name: str) -> bool:
    """Whether a file is what a process left behind that died while it wrote one of ours."""
    return is_temporary(name, of={*OURS, NAME})


def _write(path: Path, content: dict[str, object]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
