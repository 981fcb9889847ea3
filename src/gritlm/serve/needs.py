"""What the room needs besides the package itself, and whether it is installed."""

from __future__ import annotations

from gritlm.errors import require_libraries

LIBRARIES = ("fastapi", "orjson", "prometheus_client", "pydantic", "starlette", "uvicorn")


def require() -> None:
    """Refuse to begin without a library.

    Raises:
        MissingExtraError: naming those that are missing and the extra that brings them.
    """
    require_libraries(LIBRARIES, what="serving needs", extra="serve")
