"""The number of files that a request to the server crosses."""

from __future__ import annotations

from pathlib import Path

from tests import trips

MOST_FILES = 22


def test_a_request_for_embeddings_crosses_few_files(tmp_path: Path):
    files = trips.embed_over_http(tmp_path)
    assert {"serve/service.py", "serve/api/embeddings.py", "lm/encoder.py"} <= files
    assert {"serve/engine/engine_loop.py", "serve/engine/embedding.py"} <= files, (
        "the model's thread"
    )
    assert len(files) <= MOST_FILES, "\n".join(sorted(files))
