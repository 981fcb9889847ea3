"""Storage of a shared tier of KV blocks: a folder or a prefix of an object store, by pyarrow."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from gritlm.errors import InputError, require_libraries
from gritlm.rag.kvstore.shared.shared_blocks import SharedBlocks
from gritlm.runtime import private_folder
from gritlm.scale.storage import Location, explained, shown

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "file")
_CONNECT_S = 2.0
_SILENCE_S = 5.0  # without a byte
_ATTEMPTS = 2


def shared_blocks(url: str | Path, *, always: bool = False, writable: bool = False) -> SharedBlocks:
    """Return storage for KV blocks that several workspaces and machines share.

    Args:
        url: folder that all machines reach, or an address such as ``s3://bucket/blocks``;
            credentials come from the environment.
        always: exchange every block, also where prefill is estimated to be faster.
        writable: write and delete a small object now; without it, nothing is read or written
            before the first block.

    Raises:
        InputError: for an address of another kind.
        StorageError: for storage that has to be writable and is not.
        MissingExtraError: without the libraries of the extra ``scale``.
    """
    require_libraries(("pyarrow",), what="shared storage of blocks needs", extra="scale")
    scheme, sign, _ = str(url).partition("://")
    if sign and scheme not in SCHEMES:
        raise InputError(
            f"{shown(str(url))}: expected a folder or an address that begins with "
            f"{', '.join(f'{each}://' for each in SCHEMES)}"
        )
    objects = StoredObjects(str(url))
    if writable:
        objects.require_writable()
    return SharedBlocks(objects, always)


class StoredObjects:
    """Objects in a folder or under a prefix of an object store.

    It can be sent to workers; each process connects by itself, with short timeouts on S3: an answer
    does not wait for storage that is away.

    Args:
        address: path or address, which may have credentials.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def __reduce__(self) -> tuple[type[StoredObjects], tuple[str]]:
        return type(self), (self._address,)

    def __repr__(self) -> str:
        return f"StoredObjects({self.url!r})"

    @property
    def url(self) -> str:
        """Address without credentials; a folder with its whole path."""
        if "://" not in self._address:
            return str(Path(self._address).expanduser().absolute())
        return shown(self._address)

    def read(self, name: str) -> bytes | None:
        """Return the content of an object; None if it does not exist.

        Raises:
            StorageError: if the storage fails.
        """
        place = self._root.child(name)
        with explained(place.url, "read"):
            try:
                with place.filesystem.open_input_stream(place.path) as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

    def size(self, name: str) -> int | None:
        """Return the size of an object in bytes; None if it does not exist.

        Raises:
            StorageError: if the storage fails.
        """
        place = self._root.child(name)
        with explained(place.url, "read"):
            size: int | None = place.filesystem.get_file_info(place.path).size
        return size

    def write(self, name: str, content: bytes) -> None:
        """Write an object, which appears as a whole.

        Raises:
            StorageError: if the storage fails.
        """
        if self._root.is_local:
            with explained(self.url, "made"):
                private_folder(Path(self._root.path))
        self._root.child(name).write(content)

    def delete(self, name: str) -> None:
        """Delete an object; a missing one is no error.

        Raises:
            StorageError: if the storage fails.
        """
        place = self._root.child(name)
        with explained(place.url, "deleted"):
            try:
                place.filesystem.delete_file(place.path)
            except FileNotFoundError:
                return

    def require_writable(self) -> None:
        """Write and delete a small object.

        Raises:
            StorageError: if that fails.
        """
        self._root.require_writable()

    @cached_property
    def _root(self) -> Location:
        found = Location.of(self._address)
        return Location(_impatient(found.filesystem), found.path, found.url)


def _impatient(filesystem: Any) -> Any:
    """Return the file system with short timeouts if it is S3, whose own are minutes."""
    from pyarrow import fs

    if not isinstance(filesystem, fs.S3FileSystem):
        return filesystem
    make, (settings,) = filesystem.__reduce__()
    return make(
        {
            **settings,
            "connect_timeout": _CONNECT_S,
            "request_timeout": _SILENCE_S,
            "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        }
    )
