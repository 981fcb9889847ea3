"""A request crosses few files, as docs/structure.md says; `python -m tests.trips` lists them."""

from __future__ import annotations

import re
from pathlib import Path

from tests import trips

DOCUMENT = Path(__file__).parents[1] / "docs" / "structure.md"


def test_an_answer_crosses_no_more_files_than_documented(tmp_path):
    row = re.search(
        r"^\| `RagEngine\.answer` \| (\d+) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE
    )
    files = trips.answer(tmp_path)
    assert {"rag/engine.py", "lm/unified.py", "rag/kvstore/store.py"} <= files
    assert row is not None
    assert len(files) <= int(row[1]), "\n".join(sorted(files))
