"""What the room needs besides the package itself, and whether it is installed."""

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
    """Refuse to begin without a library.

    Raises:
        MissingExtraError: naming those that are missing and the extra that brings them.
    """
    require_libraries(LIBRARIES, what="documents need", extra="rag")
