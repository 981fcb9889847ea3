"""Libraries that the server needs, and the check that they are installed."""

from __future__ import annotations

from gritlm.errors import require_libraries

LIBRARIES = ("fastapi", "orjson", "prometheus_client", "pydantic", "starlette", "uvicorn")


def require() -> None:
    """Check that every library of the server is installed.

    Raises:
        MissingExtraError: with the missing libraries and the extra that installs them.
    """
    require_libraries(LIBRARIES, what="serving needs", extra="serve")
