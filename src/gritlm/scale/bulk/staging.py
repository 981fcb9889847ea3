"""Staging folder of a job: its manifest, the parts that are done, and their publication at the end.

The staging folder is next to the output and has its name with an ending. A part is done when its
file is there. A local output appears by one renaming. On an object store the files are copied and
``_SUCCESS`` is written last, as Spark and Hadoop do: without it the output is not complete. A Lance
table (``NAME.lance``) is written from the files, and appears with its first version.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gritlm import atomic
from gritlm.errors import InputError
from gritlm.scale.bulk import lance, lance_output
from gritlm.scale.bulk.part_rows import RejectedRow
from gritlm.scale.bulk.vector_worker import EmbeddedPart
from gritlm.scale.storage import Location, explained

ENDING = ".staging"
FLOATS = ".float32"  # of the folder of vectors that are quantised at the end
MANIFEST = "_manifest.json"
SUCCESS = "_SUCCESS"
REJECTED = "_rejected"
LOCK = "_lock"
_PART = re.compile(r"part-(\d{7})\.parquet")
_FINGERPRINT = b"gritlm.weights"  # metadata of a file: hash of the weights that made it
_COPIES = 16  # objects that are copied at the same time


@dataclass(frozen=True)
class Staging:
    """The folders of a job.

    Attributes:
        output: folder of the result.
        folder: the staging folder next to it.
        floats: folder of the vectors before they are quantised; the staging folder if they are not.
    """

    output: Location
    folder: Location
    floats: Location

    @classmethod
    def of(cls, output: Location, *, scaled: bool = False) -> Staging:
        """Return the folders of a job.

        Args:
            output: folder of the result.
            scaled: whether the vectors are quantised when all of them are known.
        """
        folder = output.sibling(ENDING)
        return cls(output, folder, output.sibling(FLOATS) if scaled else folder)

    @classmethod
    def finished(cls, output: Location) -> Staging:
        """Return the folders of a job that is complete."""
        return cls(output, output, output)

    def is_published(self, job: dict[str, Any]) -> bool:
        """Return whether the output is complete and of this job.

        Args:
            job: description of the job.

        Raises:
            InputError: for an output of another job, or a folder with other files.
        """
        if lance.is_table(self.output):
            return lance_output.is_written(self.output, digest(job))
        if not self.output.exists():
            return False
        if self.output.child(SUCCESS).exists():
            self._require_same(
                self.output.child(MANIFEST), job, "delete it, or name another output"
            )
            return True
        begun = self.folder.child(MANIFEST).exists()
        if self.output.files() and not (begun and not self.output.is_local):
            raise InputError(
                f"{self.output.url} exists and is not the result of a finished job; "
                "name another output"
            )
        return False

    def begin(self, job: dict[str, Any]) -> None:
        """Write the manifest of a new job, or compare that of the job to go on with.

        Args:
            job: description of the job.

        Raises:
            StorageError: for a folder that cannot be written.
            InputError: for the staging folder of another job.
        """
        self.folder.require_writable()
        self.floats.make_folder()
        manifest = self.folder.child(MANIFEST)
        if manifest.exists():
            self._require_same(manifest, job, "delete it, or name another output")
        else:
            manifest.write(json.dumps({"digest": digest(job), **job}, indent=1).encode())

    def _require_same(self, manifest: Location, job: dict[str, Any], advice: str) -> None:
        try:
            known = json.loads(manifest.read())
        except ValueError:
            raise InputError(f"{manifest.url} is damaged; {advice}") from None
        if known.get("digest") != digest(job):
            changed = [name for name in job if known.get(name) != job[name]]
            raise InputError(
                f"{manifest.url} is of another job: its {' and '.join(changed) or 'parts'} "
                f"differ; {advice}"
            )

    def done(self) -> set[int]:
        """Return the numbers of the parts that are done."""
        names = (_PART.fullmatch(each.base_name) for each in self.floats.files())
        return {int(name[1]) for name in names if name}

    def is_done(self, number: int) -> bool:
        """Return whether a part is done.

        Args:
            number: number of the part.
        """
        return part_file(self.floats, number).exists()

    def fingerprint(self, parts: set[int]) -> str | None:
        """Return the fingerprint of the weights that made the parts; None without any.

        Args:
            parts: parts that are done.
        """
        import pyarrow.parquet as pq

        if not parts:
            return None
        file = part_file(self.floats, min(parts))
        with explained(file.url, "read"):
            metadata = pq.read_schema(file.path, filesystem=file.filesystem).metadata or {}
        return metadata.get(_FINGERPRINT, b"").decode() or None

    def write(self, part: EmbeddedPart) -> None:
        """Write the files of a part; from then on it is done.

        Args:
            part: the part.
        """
        if part.rejected:
            self._rejected(part.number).write(_rejected_table(part.rejected))
        table = vector_table(part.ids, part.vectors_ND, part.fingerprint)
        part_file(self.floats, part.number).write(table)

    def rows(self, *, rejected: bool = False) -> int:
        """Return the number of rows of all parts, from the footers of their files.

        Args:
            rejected: whether to count the rejected rows.

        Raises:
            StorageError: for a damaged file.
        """
        import pyarrow.dataset as ds

        if lance.is_table(self.floats):
            return lance_output.count(self.floats, rejected=rejected)
        folder = self.folder.child(REJECTED) if rejected else self.floats
        paths = [each.path for each in folder.files() if _PART.fullmatch(each.base_name)]
        if not paths:
            return 0
        with explained(folder.url, "read"):
            found = ds.dataset(paths, filesystem=folder.filesystem, format="parquet")
            return int(found.count_rows())

    def publish(self) -> None:
        """Make the result appear in the output, and remove the staging folder."""
        self.folder.child(SUCCESS).write(b"")
        if lance.is_table(self.output):
            known = json.loads(self.folder.child(MANIFEST).read())["digest"]
            numbers = sorted(self.done())
            rejected = self.folder.child(REJECTED).files()
            lance_output.write(
                self.output,
                [part_file(self.folder, number) for number in numbers],
                [self.folder.child(f"{REJECTED}/{each.base_name}") for each in rejected],
                known,
            )
            self.folder.delete_folder()
            self.remove_floats()
            return
        if self.output.is_local:
            with explained(self.output.url, "written"):
                staged, output = Path(self.folder.path), Path(self.output.path)
                staged.joinpath(LOCK).unlink(missing_ok=True)
                staged.rename(output)
                atomic.sync(output.parent)
            self.remove_floats()
            return
        names = [each.path[len(self.folder.path) + 1 :] for each in self.folder.files(deep=True)]
        copied = [name for name in names if name != SUCCESS and not name.startswith(LOCK)]
        with ThreadPoolExecutor(_COPIES) as pool:
            list(pool.map(self._copy, copied))
        self.output.child(SUCCESS).write(b"")
        self.folder.delete_folder()
        self.remove_floats()

    def remove_floats(self) -> None:
        """Remove the vectors that have been quantised, if any are left."""
        if self.floats.path not in (self.folder.path, self.output.path) and self.floats.exists():
            self.floats.delete_folder()

    def _copy(self, name: str) -> None:
        source, target = self.folder.child(name), self.output.child(name)
        with explained(target.url, "written"):
            source.filesystem.copy_file(source.path, target.path)

    def _rejected(self, number: int) -> Location:
        return part_file(self.folder.child(REJECTED), number)


def part_file(folder: Location, number: int) -> Location:
    """Return the file of a part.

    Args:
        folder: its folder.
        number: number of the part.
    """
    return folder.child(f"part-{number:07d}.parquet")


def digest(job: dict[str, Any]) -> str:
    """Return a hash of the description of a job."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


def vector_table(ids: Sequence[str], vectors_ND: np.ndarray, fingerprint: str) -> Any:
    """Return the file of the vectors of a part, as a buffer of pyarrow.

    Args:
        ids: ids of N rows.
        vectors_ND: their vectors.
        fingerprint: hash of the weights.
    """
    import pyarrow as pa

    flat = pa.array(vectors_ND.reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, vectors_ND.shape[1])
    table = pa.table({"id": pa.array(ids, pa.string()), "embedding": vectors})
    return _parquet(table.replace_schema_metadata({_FINGERPRINT: fingerprint}))


@dataclass(frozen=True)
class PartVectors:
    """Content of the file of a part.

    Attributes:
        ids: ids of N rows.
        vectors_ND: their vectors.
        fingerprint: hash of the weights.
    """

    ids: list[str]
    vectors_ND: np.ndarray
    fingerprint: str


def read_vectors(file: Location) -> PartVectors:
    """Return the vectors of a part.

    Args:
        file: the file of the part.

    Raises:
        StorageError: for a file that cannot be read.
    """
    import pyarrow.parquet as pq

    with explained(file.url, "read"):
        table = pq.read_table(file.path, filesystem=file.filesystem)
    column = table["embedding"].combine_chunks()
    vectors_ND = column.flatten().to_numpy().reshape(-1, column.type.list_size)
    fingerprint = (table.schema.metadata or {}).get(_FINGERPRINT, b"").decode()
    return PartVectors(table["id"].to_pylist(), vectors_ND, fingerprint)


def _rejected_table(rows: Sequence[RejectedRow]) -> Any:
    """Return the file of rejected rows, as a buffer of pyarrow."""
    import pyarrow as pa

    names = pa.array([row.id for row in rows], pa.string())
    reasons = pa.array([row.reason for row in rows], pa.string())
    return _parquet(pa.table({"id": names, "reason": reasons}))


def _parquet(table: Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    # Vectors have no values in common: dictionaries and compression cost time and save nothing.
    pq.write_table(table, buffer, use_dictionary=False, compression="NONE", write_statistics=False)
    return buffer.getvalue()
