"""The reader docling: its process, and what it says where docling or its models are missing.

Without docling these tests use what is missing; with it, the models are not on the machine.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from importlib.util import find_spec

import pytest

from gritlm import errors
from gritlm.errors import DownloadError, InputError, MissingExtraError
from gritlm.rag import RagEngine
from gritlm.rag.ingest import docling_files, file_reader
from gritlm.rag.ingest.file_reader import FileReader
from gritlm.rag.ingest.skips import SkippedSource
from gritlm.rag.ingest.sources import TEXTS, documents

WITHOUT = pytest.mark.skipif(find_spec("docling") is not None, reason="docling is installed")
MISSING = r"the reader docling needs docling, which is not installed; .*\[docling\]"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 64


@WITHOUT
def test_without_docling_nothing_is_begun(grit, tmp_path):
    with RagEngine.open(tmp_path / "store", grit) as engine:
        with pytest.raises(MissingExtraError, match=MISSING):
            engine.add([{"id": "a", "text": "Cats."}], reader="docling")
        assert engine.documents() == []
        with pytest.raises(InputError, match="reader='ocr'"):
            engine.add([{"id": "a", "text": "Cats."}], reader="ocr")
    with pytest.raises(MissingExtraError, match=MISSING):
        FileReader("docling")


def test_images_are_no_documents_by_default(tmp_path):
    (tmp_path / "scan.png").write_bytes(PNG)
    skipped: list[SkippedSource] = []
    assert list(documents([tmp_path], skipped=skipped)) == []
    assert ".png: this model reads text only" in skipped[0].reason


@WITHOUT
def test_its_process_takes_pdf_files_and_images_and_says_what_is_missing(monkeypatch, tmp_path):
    # The process has no docling; this one pretends to have it, to start that process.
    real = errors.find_spec
    monkeypatch.setattr(errors, "find_spec", lambda name: name == "docling" or real(name))
    reader = FileReader("docling")
    assert {".png", ".tiff", ".pdf", ".docx"} <= set(reader.kinds)
    files = [(".png", PNG), (".html", b"<p>Cats.</p>"), (".pdf", b"%PDF-1.4")]
    image, page, pdf = reader.contents([(kind, b64encode(data).decode()) for kind, data in files])
    assert page.text == "Cats."
    for reason in (image, pdf):
        assert "the reader docling needs docling" in reason
    (tmp_path / "scan.png").write_bytes(PNG)
    skipped: list[SkippedSource] = []
    assert (
        list(documents([tmp_path], skipped=skipped, reading=replace(TEXTS, reader="docling"))) == []
    )
    assert "the reader docling needs docling" in skipped[0].reason


def test_missing_models_are_one_line_with_the_next_step():
    error = docling_files._without_models(OSError("cannot find the files\non the hub"))
    assert isinstance(error, DownloadError)
    assert "OSError: cannot find the files)" in str(error)
    assert "docling-tools models download" in str(error)
    assert "\n" not in str(error)


def test_the_process_has_limits_of_its_own(monkeypatch):
    seen = []
    monkeypatch.setattr(
        file_reader, "limit_process", lambda memory, seconds: seen.append((memory, seconds))
    )
    for name in ("standard", "docling"):
        file_reader.main(iter(()), None, name)
    assert seen == [
        (768 * 2**20, file_reader.SECONDS),
        (16 * 2**30, file_reader.DOCLING_SECONDS),
    ]
