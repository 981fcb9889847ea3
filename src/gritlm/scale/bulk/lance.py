"""Lance tables as input and output of bulk embedding, in a local folder or an object store.

LanceDB reads and writes them. A table is a folder ``NAME.lance``; each change is a version of it,
which appears as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gritlm.errors import require_libraries
from gritlm.scale.storage import Location, StorageError, explained, shown

ENDING = ".lance"
_MISSING = ("was not found", "not found", "does not exist")


def is_table(location: Location) -> bool:
    """Return whether a location has the name of a table.

    Args:
        location: the location.
    """
    return location.path.endswith(ENDING)


def find_table(location: Location, *, version: int | None = None) -> Any:
    """Return a table of LanceDB, or None without one.

    Args:
        location: folder of the table.
        version: version to read; None for the latest.

    Raises:
        MissingExtraError: without LanceDB.
        StorageError: for a table that cannot be read.
    """
    with _explained(location, "read"):
        database, name = _database(location)
        try:
            table = database.open_table(name)
        except (ValueError, FileNotFoundError) as error:
            if any(text in str(error).lower() for text in _MISSING):
                return None
            raise
        if version is not None:
            table.checkout(version)
        return table


def open_table(location: Location, *, version: int | None = None) -> Any:
    """Return a table of LanceDB.

    Args:
        location: folder of the table.
        version: version to read; None for the latest.

    Raises:
        MissingExtraError: without LanceDB.
        StorageError: for a table that is missing or cannot be read.
    """
    table = find_table(location, version=version)
    if table is None:
        raise StorageError(f"{location.url} is no Lance table; check the path")
    return table


def read_rows(location: Location, version: int, rows: range, columns: set[str]) -> Any:
    """Return rows of a table as a table of pyarrow.

    Args:
        location: folder of the table.
        version: version to read.
        rows: numbers of the rows.
        columns: columns to read, where the table has them.
    """
    table = open_table(location, version=version)
    with _explained(location, "read"):
        names = [name for name in table.schema.names if name in columns]
        return table.take_offsets(list(rows)).select(names).to_arrow()


def write_table(location: Location, schema: Any, batches: Iterator[Any]) -> None:
    """Write a table, which appears when all of it is written, and replaces an earlier one.

    Args:
        location: folder of the table.
        schema: schema of pyarrow with its metadata.
        batches: record batches.

    Raises:
        MissingExtraError: without LanceDB.
        StorageError: for a folder that cannot be written.
    """
    import pyarrow as pa

    reader = pa.RecordBatchReader.from_batches(schema, batches)
    with _explained(location, "written"):
        database, name = _database(location)
        database.create_table(name, reader, mode="overwrite")


def _database(location: Location) -> tuple[Any, str]:
    """Return the database of a table, and its name in it."""
    require_libraries(("lancedb",), what="Lance tables need", extra="rag")
    import lancedb

    folder, _, name = location.path.rpartition("/")
    name = name.removesuffix(ENDING)
    if location.is_local:
        return lancedb.connect(folder), name
    scheme = location.address.partition("://")[0]
    options = _storage_options(location.address)
    return lancedb.connect(f"{scheme}://{folder}", storage_options=options), name


def _storage_options(address: str) -> dict[str, str]:
    """Return the options of LanceDB that an address of pyarrow has; the rest is the environment."""
    parts = urlsplit(address)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    options: dict[str, str] = {}
    if parts.username and parts.password:
        options |= {"access_key_id": parts.username, "secret_access_key": parts.password}
    if "region" in query:
        options["region"] = query["region"]
    if "endpoint_override" in query:
        plain = query.get("scheme", "https") == "http"
        options["endpoint"] = f"{'http' if plain else 'https'}://{query['endpoint_override']}"
        options["allow_http"] = str(plain).lower()
    return options


@contextmanager
def _explained(location: Location, verb: str) -> Iterator[None]:
    """Raise the errors of LanceDB as one line without credentials."""
    with explained(location.url, verb):
        try:
            yield
        except (RuntimeError, ValueError) as error:
            raise OSError(shown(str(error))) from error
