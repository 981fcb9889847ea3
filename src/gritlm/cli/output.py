"""Vectors written out: JSON lines, npy or parquet, to stdout or to a file in one step."""

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

from gritlm import runtime
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
    """Where vectors are written, and how."""

    output: Annotated[str, typer.Option("--output", "-o", help="File to write; - for stdout.")] = (
        STDOUT
    )
    format: Annotated[
        Format | None,
        typer.Option(help="By the file's ending when left out; jsonl for a file without one."),
    ] = None

    def destination(self) -> Destination:
        """Return where to write, checked before any work is done.

        Raises:
            InputError: when the file could not be written, or its ending names another format.
            MissingExtraError: when pyarrow is needed and not installed.
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
        """Write one row a text; a file is there whole or not at all."""
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
    """A file to write that takes the place of ``path`` when all went well, and only then.

    What is no regular file (a pipe, /dev/null) is written to directly.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    with runtime.replacing(path) as unfinished, unfinished.open("wb") as file:
        yield file


def json_line(record: dict[str, Any]) -> str:
    """Return a record as one line of JSON that is safe to print: see :func:`printable_json`."""
    return printable_json(json.dumps(record, ensure_ascii=False)) + "\n"


def _on_stdout(form: Format) -> Destination:
    if form is not Format.jsonl:
        raise InputError(f"--format {form} is binary and needs a file; add --output FILE.{form}")
    return Destination(None, form)


def require_json_lines(path: Path) -> None:
    """Refuse a file for JSON lines whose ending names another format.

    Raises:
        InputError: naming the file and the ending that is right.
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
    """JSON lines for no ending, and for a pipe or a device; None for an unknown ending."""
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

    del items  # the rows are known by their order
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
    """Whole numbers if all are, and fit a column of them; else strings."""
    ids = [item.id for item in items]
    if all(key is None or (isinstance(key, int) and abs(key) < 2**63) for key in ids):
        return ids
    return [None if key is None else str(key) for key in ids]
