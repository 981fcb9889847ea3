"""Libraries of the extra ``scale``."""

from __future__ import annotations

from gritlm.errors import require_libraries

LIBRARIES = ("ray", "pyarrow", "fsspec")


def require() -> None:
    """Require the libraries of the extra ``scale``.

    Raises:
        MissingExtraError: naming the missing libraries and the extra that brings them.
    """
    require_libraries(LIBRARIES, what="work on a cluster needs", extra="scale")
