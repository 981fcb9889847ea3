"""Output of vectors as JSON lines, npy or parquet, to stdout or atomically to a file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from gritlm import atomic
from gritlm.cli.files import Item
from gritlm.distribution import install_hint
from gritlm.errors import InputError, MissingExtraError
from gritlm.printable import printable_json

if TYPE_CHECKING:
    import numpy as np

STDOUT = "-"


class Format(StrEnum):
    """File formats of vectors."""

    jsonl = "jsonl"
    npy = "npy"
    parquet = "parquet"


_ENDINGS = {
    ".jsonl": Format.jsonl,
    ".ndjson": Format.jsonl,
    ".npy": Format.npy,
    ".parquet": Format.parquet,
}


@dataclass(frozen=True)
class WriteOptions:
    """Destination and format of the vectors."""

    output: Annotated[str, typer.Option("--output", "-o", help="Output file; - for stdout.")] = (
        STDOUT
    )
    format: Annotated[
        Format | None,
        typer.Option(help="Output format. Default: from the file extension, jsonl without one."),
    ] = None

    def destination(self) -> Destination:
        """Return the destination, checked before a model is loaded.

        Raises:
            InputError: for a file that cannot be written, or an extension of another format.
            MissingExtraError: for parquet without pyarrow.
        """
        if self.output == STDOUT:
            return _on_stdout(self.format or Format.jsonl)
        path = Path(self.output)
        _check_path(path)
        destination = Destination(path, self.format or _format_of(path))
        if destination.format is Format.parquet and find_spec("pyarrow") is None:
            raise MissingExtraError(
                "writing parquet needs pyarrow, which is not installed; "
                f"{install_hint('cli')}, or use --format jsonl or npy"
            )
        return destination


@dataclass(frozen=True)
class Destination:
    """A file, or stdout for ``path=None``, and the format to write."""

    path: Path | None
    format: Format

    def write(self, items: Sequence[Item], embeddings_ND: np.ndarray) -> None:
        """Write one row per text; a file is replaced only when it is complete.

        Args:
            items: the texts with their ids, N of them.
            embeddings_ND: their vectors (N, D).
        """
        if self.path is None:
            sys.stdout.flush()
            _write_jsonl(sys.stdout.buffer, items, embeddings_ND)
            sys.stdout.buffer.flush()
            return
        write = {
            Format.jsonl: _write_jsonl,
            Format.npy: _write_npy,
            Format.parquet: _write_parquet,
        }[self.format]
        with replacing(self.path) as file:
            write(file, items, embeddings_ND)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file that replaces ``path`` when the block succeeds.

    A pipe or a device such as /dev/null is written to directly.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    with atomic.replacing(path) as unfinished, unfinished.open("wb") as file:
        yield file


def json_line(record: dict[str, Any]) -> str:
    """Return a record as a line of JSON that is safe to print; see :func:`printable_json`."""
    return printable_json(json.dumps(record, ensure_ascii=False)) + "\n"


def _on_stdout(form: Format) -> Destination:
    if form is not Format.jsonl:
        raise InputError(f"--format {form} is binary and needs a file; add --output FILE.{form}")
    return Destination(None, form)


def require_json_lines(path: Path) -> None:
    """Refuse an output file for JSON lines with the extension of another format.

    Raises:
        InputError: for another extension, with the one that is expected.
    """
    if _by_ending(path) is not Format.jsonl:
        raise InputError(f"--output {path}: the rows are JSON lines; name the file .jsonl")


def _format_of(path: Path) -> Format:
    found = _by_ending(path)
    if found is None:
        raise InputError(
            f"--output {path}: {path.suffix.lower()} is not a format that can be written; name "
            f"the file {', '.join(_ENDINGS)}, or choose one with --format {', '.join(Format)}"
        )
    return found


def _by_ending(path: Path) -> Format | None:
    """Return the format of a file extension: JSON lines without one, None for an unknown one.

    Pipes and devices get JSON lines too.
    """
    ending = path.suffix.lower()
    if not ending or (path.exists() and not path.is_file()):
        return Format.jsonl
    return _ENDINGS.get(ending)


def _check_path(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"--output {path} is a folder; expected a file name")
    if not path.parent.is_dir():
        raise InputError(f"--output {path}: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"--output {path}: the folder {path.parent} may not be written to")


def _write_jsonl(file: BinaryIO, items: Sequence[Item], embeddings_ND: np.ndarray) -> None:
    for index, (item, embedding_D) in enumerate(zip(items, embeddings_ND, strict=True)):
        key = {"index": index} if item.id is None else {"id": item.id}
        record = {**key, "text": item.text, "embedding": embedding_D.tolist()}
        file.write(json_line(record).encode("utf-8"))


def _write_npy(file: BinaryIO, items: Sequence[Item], embeddings_ND: np.ndarray) -> None:
    import numpy as np

    del items  # the order of the rows identifies them
    np.save(file, embeddings_ND)


def _write_parquet(file: BinaryIO, items: Sequence[Item], embeddings_ND: np.ndarray) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = pa.array(embeddings_ND.reshape(-1))
    columns: dict[str, Any] = {
        "index": list(range(len(items))),
        "text": [item.text for item in items],
        "embedding": pa.FixedSizeListArray.from_arrays(flat, embeddings_ND.shape[1]),
    }
    if any(item.id is not None for item in items):
        columns = {"id": _ids(items), **columns}
    pq.write_table(pa.table(columns), file)


def _ids(items: Sequence[Item]) -> list[str | int | None]:
    """Return the ids: as they are if all are 64-bit integers or None, else as strings."""
    ids = [item.id for item in items]
    if all(key is None or (isinstance(key, int) and abs(key) < 2**63) for key in ids):
        return ids
    return [None if key is None else str(key) for key in ids]
