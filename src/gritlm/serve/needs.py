"""What the room needs besides the package itself, and whether it is installed."""

from __future__ import annotations

from importlib.util import find_spec

from gritlm.errors import MissingExtraError

LIBRARIES = ("fastapi", "orjson", "prometheus_client", "pydantic", "starlette", "uvicorn")


def require() -> None:
    """Refuse to begin without a library.

    Raises:
        MissingExtraError: naming those that are missing and the extra that brings them.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"serving needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} "
            "not installed; pip install 'gritlm[serve]'"
        )
