"""Libraries of the extra ``rag``."""

from __future__ import annotations

from gritlm.errors import require_libraries

LIBRARIES = (
    "blake3",
    "charset_normalizer",
    "lancedb",
    "lmdb",
    "pyarrow",
    "pypdf",
    "semantic_text_splitter",
    "xxhash",
    "yaml",
)


def require() -> None:
    """Require the libraries of the extra ``rag``.

    Raises:
        MissingExtraError: naming the missing libraries and the extra that brings them.
    """
    require_libraries(LIBRARIES, what="documents need", extra="rag")
