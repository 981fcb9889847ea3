"""Addresses of empty databases: LanceDB, an embedded Qdrant, and a PostgreSQL with pgvector."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server of this test run, on a socket of its own."""
    pgserver = pytest.importorskip("pgserver", reason="no PostgreSQL: pgserver is not installed")
    # The server has a user of its own if the tests run as root, who may not see tmp_path.
    folder = Path(tempfile.mkdtemp(prefix="gritlm-pg-"))
    folder.chmod(0o755)
    server = pgserver.get_server(folder / "data", cleanup_mode="delete")
    yield server.get_uri().replace("postgres:@", "postgres@")
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["lance", "qdrant", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def address(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The address of an index that does not exist."""
    return new_address(database, tmp_path, request)


@pytest.fixture
def new(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], str]:
    return lambda database: new_address(database, tmp_path, request)


def new_address(database: str, folder: Path, request: pytest.FixtureRequest) -> str:
    number = next(NUMBERS)
    if database == "lance":
        return str(folder / f"lance-{number}")
    if database == "qdrant":
        return f"qdrant://{folder / f'qdrant-{number}'}"
    return f"{request.getfixturevalue('postgres')}&table=passages_{number}"
