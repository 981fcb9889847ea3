"""Pages of PDF files as images: rendering, their numbers, and files that cannot be read."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64encode
from dataclasses import replace
from importlib.util import find_spec
from io import BytesIO, StringIO

import numpy as np
import pytest
from PIL import Image
from pypdf import PdfWriter

from gritlm import errors
from gritlm.errors import InputError, MissingExtraError
from gritlm.lm.media.files import MediaRules
from gritlm.lm.sampling import SamplingParams
from gritlm.rag.ingest import file_reader
from gritlm.rag.ingest.file_reader import FileReader
from gritlm.rag.media import media_files, pdf_pages
from gritlm.rag.media.media_reading import MediaReading
from tests.pdfs import lines_pdf
from tests.rag.media.conftest import QUESTION, opened, picture

THREE = ["Cats sleep most of the day.", "Dogs like walks.", "Water boils at 100 degrees."]
BRIEF = SamplingParams(max_new_tokens=4)


def encrypted() -> bytes:
    writer = PdfWriter(BytesIO(lines_pdf(THREE)))
    writer.encrypt("secret", algorithm="RC4-128")
    with BytesIO() as file:
        writer.write(file)
        return file.getvalue()


def sized(width: float, height: float) -> bytes:
    writer = PdfWriter()
    writer.add_blank_page(width, height)
    with BytesIO() as file:
        writer.write(file)
        return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)))


def test_pages_are_rendered_with_their_numbers():
    pages = pdf_pages.render(lines_pdf(THREE), most_bytes=10**9)
    assert [page.place.page for page in pages] == [1, 2, 3]
    assert [page.place.label for page in pages] == ["page 1", "page 2", "page 3"]
    for page in pages:
        seen = pixels(page.data)
        assert max(seen.shape) == pdf_pages.LONGEST
        assert seen.shape[2] == 3
        assert seen.min() < 50  # text
        assert (seen == 255).mean() > 0.9  # on white
    assert pages[0].data != pages[1].data


@pytest.mark.parametrize("size", [(30, 40), (14_000, 14_000), (14_000, 20)])
def test_a_page_of_any_size_stays_within_the_limit_of_pixels(size):
    (page,) = pdf_pages.render(sized(*size), most_bytes=10**9)
    height, width, _ = pixels(page.data).shape
    assert max(height, width) <= pdf_pages.LONGEST
    assert (width > height) == (size[0] > size[1])


def test_the_document_keeps_pages_beside_or_instead_of_text(seeing, tmp_path):
    path = tmp_path / "report.pdf"
    path.write_bytes(lines_pdf(THREE))
    with opened(tmp_path / "pages", seeing) as engine:
        assert engine.add([path], reader="pages").passages == 3
        hits = engine.retrieve(QUESTION, top_k=9)
        assert sorted(hit.passage.media.page for hit in hits) == [1, 2, 3]
        answer = engine.answer(QUESTION, top_k=3, fusion="token", margin=2.0, sampling=BRIEF)
        assert sorted(source.media.page for source in answer.sources) == [1, 2, 3]
        assert sorted(source.text.split(", ")[-1] for source in answer.sources) == [
            "page 1",
            "page 2",
            "page 3",
        ]
        only = engine.retrieve(QUESTION, filter={"gritlm.page": 2})
        assert [hit.passage.media.page for hit in only] == [2]
        assert engine.add([path], reader="pages").unchanged == 1
        assert engine.add([path]).replaced == 1  # now its text
        assert not [*(tmp_path / "pages/media").iterdir()]
    with opened(tmp_path / "both", seeing) as engine:
        assert engine.add([path], reader="pages-and-text").passages == 4
        hits = engine.retrieve(QUESTION, top_k=9)
        (text,) = [hit.passage.text for hit in hits if hit.passage.media is None]
        assert "Cats sleep" in text
        (document,) = engine.documents()
        assert document.passages == 4
        assert document.metadata == {}


def test_a_scan_without_text_has_pages():
    (content,) = FileReader("pages-and-text").contents([(".pdf", _base64(sized(200, 300)))])
    assert (content.text, len(content.media)) == ("", 1)


def test_rules_with_functions_are_passed_as_plain_limits(tmp_path):
    data = picture(tmp_path / "photo.png").read_bytes()  # 40 x 60 pixels
    rules = MediaRules(most_pixels=2400, decoder=lambda *_: None, spend=lambda _: None)
    reader = FileReader("standard", MediaReading(["image"], rules, seconds=30.0))
    (content,) = reader.contents([(".png", _base64(data))])
    assert np.array_equal(pixels(content.media[0].data), pixels(data))
    reader = FileReader(
        "standard", MediaReading(["image"], replace(rules, most_pixels=2399), seconds=30.0)
    )
    (reason,) = reader.contents([(".png", _base64(data))])
    assert "pixels" in reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"%PDF-1.4 and no more", "no PDF that can be read"),
        (b"", "no PDF that can be read"),
        (encrypted(), "encrypted: it asks for a password; save it without one"),
        (sized(14_000, 0.1), "is too narrow for an image; cut it"),
    ],
    ids=["broken", "empty", "encrypted", "narrow"],
)
def test_a_file_that_cannot_be_rendered_is_skipped_with_its_reason(seeing, tmp_path, data, reason):
    (tmp_path / "bad.pdf").write_bytes(data)
    (tmp_path / "good.pdf").write_bytes(lines_pdf(THREE[:1]))
    with opened(tmp_path / "store", seeing) as engine:
        added = engine.add([tmp_path / "bad.pdf", tmp_path / "good.pdf"], reader="pages")
        (skipped,) = added.skipped
        assert reason in skipped.reason
        assert "\n" not in skipped.reason
        assert added.passages == 1
        assert len([*(tmp_path / "store/media").iterdir()]) == 2


def test_a_file_of_many_pages_is_refused(monkeypatch):
    monkeypatch.setattr(pdf_pages, "MOST_PAGES", 2)
    with pytest.raises(InputError, match="has 3 pages, at most 2 are read as images; split it"):
        pdf_pages.render(lines_pdf(THREE), most_bytes=10**9)
    monkeypatch.setattr(pdf_pages, "MOST_PAGES", 500)
    with pytest.raises(InputError, match="first 1 pages have more than the 100 bytes that are le"):
        pdf_pages.render(lines_pdf(THREE), most_bytes=100)


def test_the_pages_of_all_files_of_a_request_are_limited_together(monkeypatch):
    pages = pdf_pages.render(lines_pdf(THREE), most_bytes=10**9)
    size = sum(len(page.data) for page in pages)
    monkeypatch.setattr(file_reader, "_MEDIA_BYTES", size + len(pages[0].data) + 9)
    monkeypatch.setattr(file_reader, "limit_process", lambda *_: None)
    files = [lines_pdf(THREE), lines_pdf(THREE), lines_pdf(THREE[:1])]
    sink = StringIO()
    source = StringIO("".join(json.dumps([".pdf", _base64(file)]) + "\n" for file in files))
    file_reader.main(source, sink, "pages")
    first, second, third = map(json.loads, sink.getvalue().splitlines())
    assert (len(first["media"]), len(third["media"])) == (3, 1)
    left = len(pages[0].data) + 9
    assert f"first 2 pages have more than the {left:,} bytes that are left" in second["error"]


def test_the_images_of_all_files_of_a_request_are_limited_together(tmp_path, monkeypatch):
    data = picture(tmp_path / "photo.png").read_bytes()
    (kept,) = media_files.read("image", data, MediaRules(), seconds=1.0)
    monkeypatch.setattr(file_reader, "_MEDIA_BYTES", len(kept.data) + 9)
    monkeypatch.setattr(file_reader, "limit_process", lambda *_: None)
    reader = FileReader("standard", MediaReading(["image"], MediaRules(), seconds=1.0))
    sink = StringIO()
    line = json.dumps([".png", _base64(data)]) + "\n"
    file_reader.main(StringIO(line * 2), sink, "standard", reader._media_options([".png"]))
    first, second = map(json.loads, sink.getvalue().splitlines())
    assert len(first["media"]) == 1
    assert f"images and sounds have {len(kept.data):,} bytes, the files of a" in second["error"]


def test_a_process_that_returns_too_much_is_killed(monkeypatch):
    short, long = (_base64(f"<p>{'cats ' * n}</p>".encode()) for n in (1, 1000))
    monkeypatch.setattr(file_reader, "_MOST_OUTPUT", 2000)
    found = FileReader().contents([(".html", short), (".html", long), (".html", short)])
    assert found[0].text.strip() == "cats"
    assert found[1:] == [found[1]] * 2
    assert found[1].startswith("the files up to it have more than 2,000 bytes of content; send")


def test_output_without_an_end_is_not_collected(monkeypatch):
    script = "import sys\nwhile True: sys.stdout.write('x' * 1000)"
    pipe = subprocess.PIPE
    endless = subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe)
    monkeypatch.setattr(file_reader, "_start", lambda *_: endless)
    monkeypatch.setattr(file_reader, "_MOST_OUTPUT", 10**6)
    (reason,) = FileReader().contents([(".html", "x" * 10**6)])
    assert "more than 1,000,000 bytes of content" in reason
    assert endless.returncode is not None


def test_without_pypdfium2_nothing_is_begun(seeing, tmp_path, monkeypatch):
    monkeypatch.setattr(
        errors, "find_spec", lambda name: None if name == "pypdfium2" else find_spec(name)
    )
    needed = r"the reader pages needs pypdfium2.*\[pages\]"
    with (
        opened(tmp_path / "store", seeing) as engine,
        pytest.raises(MissingExtraError, match=needed),
    ):
        engine.add([tmp_path], reader="pages")


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
