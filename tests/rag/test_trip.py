"""The number of files that an answer from documents crosses."""

from __future__ import annotations

from pathlib import Path

from tests import trips

MOST_FILES = 30


def test_an_answer_crosses_few_files(tmp_path: Path):
    files = trips.answer(tmp_path)
    assert {"rag/engine.py", "lm/unified.py", "rag/kvstore/store.py"} <= files
    assert len(files) <= MOST_FILES, "\n".join(sorted(files))
