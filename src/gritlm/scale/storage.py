"""Files of a job: a local folder or a prefix of an object store (s3://, gs://), by pyarrow."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from gritlm.errors import GritLMError, first_line

# s3://key:secret@bucket; a secret with a slash should be quoted and may not be.
_CREDENTIALS = re.compile(r"(?<=://)(?:[^@\s]*:[^@\s]*|[^/@\s]*)@")
_REFUSED = ("access_denied", "access denied", "forbidden", "credential", "permission", "signature")
_SECRETS = ("access_key", "secret_key", "session_token", "password", "token")
_ASIDE = ".unfinished-"


class StorageError(GritLMError, OSError):
    """A folder or bucket that cannot be read or written."""


def shown(url: str) -> str:
    """Return an address for messages and manifests, without the credentials in it."""
    plain, _, query = _CREDENTIALS.sub("", url).partition("?")
    kept = [each for each in query.split("&") if each.split("=")[0] not in _SECRETS and each]
    return f"{plain}?{'&'.join(kept)}" if kept else plain


@dataclass(frozen=True)
class Location:
    """A file or folder on a file system that all workers reach.

    Attributes:
        filesystem: file system of pyarrow; it can be sent to workers.
        path: path in it.
        url: address for messages, without credentials.
        address: the address itself, for clients other than pyarrow; it may have credentials.
    """

    filesystem: Any
    path: str
    url: str
    address: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str | Path) -> Location:
        """Return the location of a path or of an address such as ``s3://bucket/folder``.

        Args:
            url: path or address; credentials come from the environment.

        Raises:
            StorageError: for an address that pyarrow does not know.
        """
        from pyarrow import fs

        text = str(url)
        if "://" not in text:
            path = Path(text).expanduser().absolute()
            return cls(fs.LocalFileSystem(), path.as_posix(), text, path.as_posix())
        with explained(shown(text), "opened"):
            filesystem, path = fs.FileSystem.from_uri(text)
        return cls(filesystem, path.rstrip("/"), shown(text), text)

    @property
    def is_local(self) -> bool:
        """Whether the location is in the file system of this machine."""
        from pyarrow import fs

        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    def child(self, name: str) -> Location:
        """Return the location of a file or folder in this folder.

        Args:
            name: its path in this folder.
        """
        return self.renamed(lambda path: f"{path}/{name}")

    def sibling(self, ending: str) -> Location:
        """Return the location whose name is this one's with an ending.

        Args:
            ending: the ending.
        """
        return self.renamed(lambda path: f"{path.rstrip('/')}{ending}")

    def renamed(self, change: Callable[[str], str]) -> Location:
        """Return the location whose path is changed, in its addresses too.

        Args:
            change: function of a path, or of an address without its options.
        """
        changed = []
        for url in (self.url, self.address):
            plain, mark, query = url.partition("?")
            changed.append(f"{change(plain)}{mark}{query}")
        return Location(self.filesystem, change(self.path), *changed)

    def exists(self) -> bool:
        """Return whether there is a file or a folder that is not empty on an object store."""
        from pyarrow import fs

        with explained(self.url, "read"):
            return bool(self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound)

    def files(self, *, deep: bool = False) -> list[Any]:
        """Return pyarrow's information on the files in this folder, sorted by path.

        Args:
            deep: whether to list the folders in it too.
        """
        from pyarrow import fs

        with explained(self.url, "listed"):
            chosen = fs.FileSelector(self.path, recursive=deep, allow_not_found=True)
            found = self.filesystem.get_file_info(chosen)
        return sorted((each for each in found if each.is_file), key=lambda each: each.path)

    def read(self) -> bytes:
        """Return the content of this file."""
        with explained(self.url, "read"), self.filesystem.open_input_stream(self.path) as file:
            return bytes(file.read())

    def write(self, content: Any) -> None:
        """Write this file, which is then complete or unchanged.

        Args:
            content: bytes or a buffer of pyarrow.
        """
        with explained(self.url, "written"):
            if not self.is_local:  # an object appears when its upload ends
                with self.filesystem.open_output_stream(self.path) as file:
                    file.write(content)
                return
            from gritlm import atomic

            with atomic.replacing(Path(self.path)) as unfinished:
                unfinished.write_bytes(content)

    def make_folder(self) -> None:
        """Make this folder, and those above it; on an object store there is nothing to make."""
        if self.is_local:
            with explained(self.url, "made"):
                self.filesystem.create_dir(self.path, recursive=True)

    def require_writable(self) -> None:
        """Write and delete a small file in this folder.

        Raises:
            StorageError: if that fails.
        """
        self.make_folder()
        trial = self.child(f"{_ASIDE}{uuid4().hex}")
        trial.write(b"gritlm")
        trial.delete()

    def delete(self) -> None:
        """Delete this file."""
        with explained(self.url, "deleted"):
            self.filesystem.delete_file(self.path)

    def delete_folder(self) -> None:
        """Delete this folder with everything in it."""
        with explained(self.url, "deleted"):
            self.filesystem.delete_dir(self.path)


@contextmanager
def explained(url: str, verb: str) -> Iterator[None]:
    """Raise errors of a file system as one line without credentials.

    Args:
        url: address for the message.
        verb: the operation in the past tense: ``read``.

    Raises:
        StorageError: for every error of the file system.
    """
    import pyarrow as pa

    try:
        yield
    except StorageError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise StorageError(_message(shown(url), verb, error)) from None


def _message(url: str, verb: str, error: Exception) -> str:
    text = str(error).lower()
    if "no_such_bucket" in text or "nosuchbucket" in text:
        return f"{url} cannot be {verb}: the bucket does not exist; make it first"
    if any(word in text for word in _REFUSED):
        return (
            f"{url} cannot be {verb} with the credentials of this process; check the rights of the "
            "folder or bucket, and AWS_ACCESS_KEY_ID or the profile that is used"
        )
    return f"{url} cannot be {verb}: {shown(first_line(error, limit=200))}"
