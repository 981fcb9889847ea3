"""Import of transformers' models with a single search through their source files.

transformers reads the 1,600 files of its models to know their names, and caches the result by the
path: of the folder when it is imported, then of the ``__init__.py`` in it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SCAN = "create_import_structure_from_path"


@contextmanager
def scanned_once() -> Iterator[None]:
    """Let the first import of ``transformers.models`` reuse what ``import transformers`` found.

    It saves 0.2 s of CPU time. Versions of transformers without these functions import as always.
    """
    import transformers
    from transformers.utils import import_utils

    scan: Callable[[Any], Any] | None = getattr(import_utils, _SCAN, None)
    if scan is None or "transformers.models" in sys.modules:
        yield
        return
    folder = Path(transformers.__file__).parent / "models"
    init = str(folder / "__init__.py")

    def known(path: Any) -> Any:
        return scan(folder if str(path) == init else path)

    setattr(import_utils, _SCAN, known)
    try:
        yield
    finally:
        setattr(import_utils, _SCAN, scan)
