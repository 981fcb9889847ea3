"""``gritlm embed``: texts to vectors."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from gritlm.cli import files, logs
from gritlm.cli.options import EncodeFlags, ModelOptions, ReadOptions
from gritlm.cli.output import WriteOptions
from gritlm.errors import InputError


class Precision(StrEnum):
    """Number formats of vectors; the two binary ones pack 8 dimensions into a byte."""

    float32 = "float32"
    int8 = "int8"
    uint8 = "uint8"
    binary = "binary"
    ubinary = "ubinary"


def embed(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; - or none for stdin.")] = None,
    *,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", help="Texts by lines, JSON lines, a JSON array, CSV or TSV."),
    ] = None,
    read: ReadOptions,
    write: WriteOptions,
    encode: EncodeFlags,
    truncate_dim: Annotated[
        int | None, typer.Option(min=1, help="Keep this many dimensions.")
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Number format of the vectors.")
    ] = Precision.float32,
    model: ModelOptions,
) -> None:
    """Turn texts into vectors.

    Texts are embedded as documents; with --instruction they are embedded as queries.
    """
    destination = write.destination()
    items = _items(texts or [], file, read)
    instruction = encode.header()
    embeddings_ND = model.load(mode="embedding").encode(
        [item.text for item in items],
        instruction=instruction,
        truncate_dim=truncate_dim,
        precision=precision.value,
        show_progress_bar=logs.progress(),
        **encode.limits(),
    )
    destination.write(items, embeddings_ND)


def _items(texts: list[str], file: str | None, read: ReadOptions) -> list[files.Item]:
    if texts and file is not None:
        raise InputError(
            f"texts came both as arguments ({len(texts)}) and in --file {file}; give one of them"
        )
    if texts == [files.STDIN]:
        file = files.STDIN
    elif texts:
        return files.from_arguments(texts)
    if file is None:
        if not files.stdin_is_piped():
            raise InputError("no text came; give texts as arguments, --file FILE, or pipe them in")
        file = files.STDIN
    return files.read_items(file, input_format=read.input_format, field=read.field)
