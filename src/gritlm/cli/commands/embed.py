"""``gritlm embed``: embeddings of texts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from gritlm.cli import bulk, files, logs
from gritlm.cli.options import EncodeFlags, InputFormat, ModelOptions, ReadOptions
from gritlm.cli.output import STDOUT, WriteOptions
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


@dataclass(frozen=True)
class TextFileOptions(ReadOptions):
    """Input file and its format."""

    file: Annotated[
        str | None,
        typer.Option(
            "--file", "-f", help="Input file: text lines, JSON lines, a JSON array, CSV or TSV."
        ),
    ] = None


def embed(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts to embed. Default, or for -: read stdin.")
    ] = None,
    *,
    read: TextFileOptions,
    write: WriteOptions,
    encode: EncodeFlags,
    vectors: VectorOptions,
    model: ModelOptions,
    ray: bulk.BulkInputOptions,
) -> None:
    """Embed texts.

    Texts are embedded as documents, or as queries if --instruction is given. With --ray, the files
    of --input are embedded on a cluster, and --output is the folder of their vectors.
    """
    ray.require_ray()
    if ray.ray:
        if given := _refused(texts or [], read, write, encode):
            raise InputError(f"--ray and {given}: bulk embedding does not take it; leave it out")
        _embed_on_ray(ray, write.output, read.field, encode, vectors, model)
        return
    destination = write.destination()
    if model.tensor_parallel_size > 1:
        _require_shared(texts or [], read.file, model.tensor_parallel_size)
    items = _items(texts or [], read)
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


def _embed_on_ray(
    ray: bulk.BulkInputOptions,
    output: str,
    field: str,
    encode: EncodeFlags,
    vectors: VectorOptions,
    model: ModelOptions,
) -> None:
    from gritlm import scale
    from gritlm.scale.ray_library import require

    require()
    if not ray.input or output == STDOUT:
        raise InputError("--ray needs --input FILE or FOLDER and --output FOLDER")
    options = scale.BulkOptions(
        model=bulk.model_arguments(model),
        instruction=encode.header(),
        max_length=encode.max_length,
        truncate=not ray.reject_long,
        vectors=scale.VectorForm(vectors.truncate_dim, vectors.precision.value),
        parts=ray.parts(field),
        workers=ray.pool(model.threads),
        progress=logs.progress(),
    )
    logs.hush_libraries()
    try:
        report = scale.embed(ray.input, output, options, address=ray.cluster)
    except KeyboardInterrupt:
        logs.write_message("stopped", "the same command goes on from there")
        raise
    bulk.write_report(report)


def _refused(
    texts: list[str],
    read: TextFileOptions,
    write: WriteOptions,
    encode: EncodeFlags,
) -> str | None:
    """Return the first option that bulk embedding does not take; None without any."""
    given = {
        "texts as arguments": bool(texts),
        "--file": read.file is not None,
        "--input-format": read.input_format is not InputFormat.auto,
        "--format": write.format is not None,
        "--batch-size": encode.batch_size is not None,
    }
    return next((name for name, is_given in given.items() if is_given), None)


def _items(texts: list[str], read: TextFileOptions) -> list[files.Item]:
    file = read.file
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
