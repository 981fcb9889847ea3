"""Libraries that the server needs, and the check that they are installed."""

from __future__ import annotations

from gritlm.errors import require_libraries
from gritlm.rag import needs

LIBRARIES = (
    "fastapi",
    "httptools",
    "orjson",
    "prometheus_client",
    "pydantic",
    "starlette",
    "uvicorn",
)


def require() -> None:
    """Check that every library of the server is installed, those of documents included.

    Raises:
        MissingExtraError: with the missing libraries and the extra that installs them.
    """
    require_libraries((*LIBRARIES, *needs.LIBRARIES), what="serving needs", extra="serve")
