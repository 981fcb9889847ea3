"""Small real-life files: the exact text, title and metadata that each construct must give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gritlm.rag.ingest.skips import SkippedSource
from gritlm.rag.ingest.sources import documents

CORPUS = Path(__file__).parent / "corpus"
WANTED = ".expected.json"
NAMES = sorted(path.name.removesuffix(WANTED) for path in CORPUS.glob(f"*{WANTED}"))


def test_each_file_of_the_corpus_has_its_expectation():
    files = {path.name for path in CORPUS.iterdir() if not path.name.endswith(WANTED)}
    assert files == set(NAMES)
    assert len(files) >= 60


@pytest.mark.parametrize("name", NAMES)
def test_a_file_gives_exactly_this_text_and_metadata(name: str):
    wanted = json.loads((CORPUS / f"{name}{WANTED}").read_text(encoding="utf-8"))
    skipped: list[SkippedSource] = []
    found = list(documents([CORPUS / name], skipped=skipped))
    assert [each.text for each in found] == [each["text"] for each in wanted["documents"]]
    for document, each in zip(found, wanted["documents"], strict=True):
        assert (document.title, dict(document.metadata)) == (each["title"], each["metadata"])
        assert document.markdown == each.get("markdown", False)
        assert document.id.startswith(f"corpus/{name}")
        if "id" in each:
            assert document.id == f"corpus/{name}{each['id']}"
    reasons = {each.path.removeprefix(str(CORPUS / name)): each.reason for each in skipped}
    assert list(reasons) == list(wanted.get("skipped", {}))
    for place, reason in wanted.get("skipped", {}).items():
        assert reason in reasons[place]
