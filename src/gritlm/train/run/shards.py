"""Safe reading of sharded checkpoints: no code in their files runs.

torch reads ``.metadata``, and all values of a checkpoint other than tensors, with pickle, which
runs any function that a file names. This module allows only the classes that torch writes.
``checkpoint.py`` loads the weights, optimizer and random states of a run through it.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint import filesystem, metadata, state_dict_loader
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from gritlm.errors import InputError

_CLASSES = {
    metadata: (
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    filesystem: ("_StorageInfo",),
}
_PATHS = ("PosixPath", "WindowsPath")


def load(folder: Path, state: dict[str, Any]) -> None:
    """Fill a state dict from the shards in a folder; all processes call it.

    Args:
        folder: folder of the shards.
        state: nested dict of tensors, filled in place.

    Raises:
        InputError: a file names a class or function that torch does not write.
        CheckpointException: a file is missing or damaged.
    """
    state_dict_loader.load(state, storage_reader=_Reader(folder), planner=_Planner())


def load_tensors(file: Path | IO[bytes]) -> Any:
    """Return tensors and plain values that torch saved, on the CPU.

    Raises:
        InputError: the file holds anything else, or is damaged.
        OSError: the file cannot be read.
    """
    try:
        return torch.load(file, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        name = file.name if isinstance(file, Path) else "a value"
        raise InputError(
            f"{name} is damaged or holds other values than tensors ({type(error).__name__})"
        ) from error


class _Reader(FileSystemReader):
    """Reader of torch, with a safe reading of the metadata."""

    def read_metadata(self, *_: Any, **kwargs: Any) -> Metadata:
        path = Path(str(self._get_metadata_path(kwargs.get("rank"))))
        with path.open("rb") as file:
            found = read_metadata(file, path)
        found.storage_meta = found.storage_meta or StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class _Planner(DefaultLoadPlanner):
    """Planner of torch, with a safe reading of values other than tensors."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Read a value safely, and pass it to torch in bytes that are written here."""
        own = io.BytesIO()
        torch.save(load_tensors(value), own)
        own.seek(0)
        super().load_bytes(read_item, own)


def read_metadata(file: IO[bytes], path: Path) -> Metadata:
    """Return the metadata of a sharded checkpoint.

    Raises:
        InputError: the file holds anything else, or is damaged.
    """
    try:
        found = _Unpickler(file).load()
    except Exception as error:  # pickle raises errors of any kind for a damaged file
        raise InputError(f"{path}: no metadata of a sharded checkpoint ({error})") from error
    if not isinstance(found, Metadata) or not isinstance(found.storage_data, dict):
        raise InputError(f"{path}: no metadata of a sharded checkpoint; the file is damaged")
    for entry in found.storage_data.values():
        name = str(getattr(entry, "relative_path", ""))
        if not name or name != Path(name).name:
            raise InputError(f"{path}: {name[:80]!r} is no file of this checkpoint")
    return found


class _Unpickler(pickle.Unpickler):
    """Unpickler that allows the classes of torch's metadata and no others."""

    def find_class(self, module_name: str, name: str) -> Any:
        for module, names in _CLASSES.items():
            if module_name == module.__name__ and name in names:
                return getattr(module, name)
        if (module_name, name) == ("torch.serialization", "_get_layout"):
            return _layout
        if module_name == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module_name, name) == ("torch", "Size"):
            return torch.Size
        if module_name in ("pathlib", "pathlib._local") and name in _PATHS:
            return _path
        raise InputError(f"it names {f'{module_name}.{name}'[:80]!r}, which is not run")


def _layout(name: str) -> torch.layout:
    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, torch.layout):
        raise InputError(f"unknown layout {name[:40]!r}")
    return found


def _path(*parts: str) -> str:
    """Return a path as text; it names where the checkpoint was written and is never opened."""
    return "/".join(map(str, parts))
