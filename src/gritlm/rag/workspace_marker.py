"""The file by which the folder of an engine is known, from wherever it is looked at."""

from __future__ import annotations

import json
from pathlib import Path

FORMAT = "gritlm.rag/1"
NAME = "engine.json"


def is_store(folder: Path) -> bool:
    """Whether an engine keeps its things here: never documents, whatever they look like.

    A file of the same name that another program wrote makes no store.
    """
    try:
        said = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return str(said["format"]).startswith(FORMAT.partition("/")[0])
    except (OSError, ValueError, TypeError, KeyError):
        return False
