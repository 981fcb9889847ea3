"""The file that marks a folder as the workspace of an engine."""

from __future__ import annotations

import json
from pathlib import Path

FORMAT = "gritlm.rag/1"
NAME = "engine.json"


def is_store(folder: Path) -> bool:
    """Return whether a folder is a workspace, whose files are no documents.

    A file of the same name by another program does not make it one.
    """
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return str(content["format"]).startswith(FORMAT.partition("/")[0])
    except (OSError, ValueError, TypeError, KeyError):
        return False
