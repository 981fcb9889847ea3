"""Lance tables as the output of a job: vectors, and next to them the rejected rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gritlm.errors import InputError
from gritlm.scale.bulk import lance
from gritlm.scale.storage import Location, explained

_JOB = b"gritlm.job"  # metadata of a table: hash of the job that has written it


def is_written(output: Location, job: str) -> bool:
    """Return whether the table of a job is there.

    Args:
        output: folder of the table.
        job: hash of the job.

    Raises:
        InputError: for a table of another job, or of something else.
    """
    table = lance.find_table(output)
    if table is None:
        return False
    if (table.schema.metadata or {}).get(_JOB, b"").decode() != job:
        raise InputError(
            f"{output.url} is a table of another job or with other content; delete it, or name "
            "another output"
        )
    return True


def write(
    output: Location, parts: Sequence[Location], rejected: Sequence[Location], job: str
) -> None:
    """Write the tables of a job; the one of the vectors is written last.

    Args:
        output: folder of the table of the vectors.
        parts: Parquet files of the vectors, in the order of the rows.
        rejected: Parquet files of the rejected rows.
        job: hash of the job.

    Raises:
        StorageError: for a file that cannot be read, or a table that cannot be written.
    """
    if rejected:
        _write(_of_rejected(output), rejected, job)
    if parts:
        _write(output, parts, job)


def count(output: Location, *, rejected: bool) -> int:
    """Return the number of rows of a table, or of the rejected ones.

    Args:
        output: folder of the table of the vectors.
        rejected: whether to count the rejected rows.
    """
    table = lance.find_table(_of_rejected(output) if rejected else output)
    return 0 if table is None else int(table.count_rows())


def _of_rejected(output: Location) -> Location:
    ending = lance.ENDING
    return output.renamed(lambda path: f"{path.removesuffix(ending)}_rejected{ending}")


def _write(target: Location, files: Sequence[Location], job: str) -> None:
    import pyarrow.parquet as pq

    with explained(files[0].url, "read"):
        schema = pq.read_schema(files[0].path, filesystem=files[0].filesystem)
    schema = schema.with_metadata({**(schema.metadata or {}), _JOB: job.encode()})
    lance.write_table(target, schema, _batches(files, schema))


def _batches(files: Sequence[Location], schema: Any) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        with explained(file.url, "read"):
            table = pq.read_table(file.path, filesystem=file.filesystem)
        for batch in table.to_batches():
            yield pa.record_batch(batch.columns, schema=schema)
