"""``gritlm embed``: embeddings of texts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from gritlm.cli import files, logs
from gritlm.cli.options import EncodeFlags, ModelOptions, ReadOptions
from gritlm.cli.output import WriteOptions
from gritlm.errors import InputError


class Precision(StrEnum):
    """Data types of vectors; the two binary ones pack 8 dimensions into a byte."""

    float32 = "float32"
    int8 = "int8"
    uint8 = "uint8"
    binary = "binary"
    ubinary = "ubinary"


@dataclass(frozen=True)
class VectorOptions:
    """Dimensions and data type of the vectors."""

    truncate_dim: Annotated[
        int | None, typer.Option(min=1, help="Truncate vectors to this number of dimensions.")
    ] = None
    precision: Annotated[Precision, typer.Option(help="Data type of the vectors.")] = (
        Precision.float32
    )


def embed(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts to embed. Default, or for -: read stdin.")
    ] = None,
    *,
    file: Annotated[
        str | None,
        typer.Option(
            "--file", "-f", help="Input file: text lines, JSON lines, a JSON array, CSV or TSV."
        ),
    ] = None,
    read: ReadOptions,
    write: WriteOptions,
    encode: EncodeFlags,
    vectors: VectorOptions,
    model: ModelOptions,
) -> None:
    """Embed texts.

    Texts are embedded as documents, or as queries if --instruction is given.
    """
    destination = write.destination()
    if model.tensor_parallel_size > 1:
        _require_shared(texts or [], file, model.tensor_parallel_size)
    items = _items(texts or [], file, read)
    instruction = encode.header()
    embeddings_ND = model.load(mode="embedding", parallel=True).encode(
        [item.text for item in items],
        instruction=instruction,
        truncate_dim=vectors.truncate_dim,
        precision=vectors.precision.value,
        show_progress_bar=logs.progress(),
        **encode.limits(),
    )
    if model.writes_output:
        destination.write(items, embeddings_ND)


def _require_shared(texts: list[str], file: str | None, processes: int) -> None:
    """Refuse stdin, of which each of several processes would read a part."""
    if files.STDIN in (file, *texts) or not (file or texts):
        raise InputError(
            f"--tensor-parallel-size {processes} and stdin: each process would read a part of the "
            "texts; use --file FILE"
        )


def _items(texts: list[str], file: str | None, read: ReadOptions) -> list[files.Item]:
    if texts and file is not None:
        raise InputError(
            f"texts are given as arguments ({len(texts)}) and by --file {file}; give one of them"
        )
    if texts == [files.STDIN]:
        file = files.STDIN
    elif texts:
        return files.from_arguments(texts)
    if file is None:
        if not files.stdin_is_piped():
            raise InputError(
                "no text to embed; pass texts as arguments, use --file FILE, or pipe them in"
            )
        file = files.STDIN
    return files.read_items(file, input_format=read.input_format, field=read.field)
