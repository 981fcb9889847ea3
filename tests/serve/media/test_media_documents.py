"""Documents of images, pages and sound on a server: uploads, sources, and their files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from gritlm.errors import InputError
from gritlm.rag.engine import RagEngine
from gritlm.rag.ingest.ingest import ChunkingOptions
from gritlm.serve.config import ServerConfig
from gritlm.serve.documents.handlers import DocumentApi
from gritlm.serve.engine.limits import Limits
from gritlm.serve.stores import StoreAt
from tests.pdfs import lines_pdf
from tests.serve.conftest import Served, served
from tests.serve.media.conftest import coded, png, wav

ROUTE = "/v1/rag/documents"
BRIEF = {"question": "What is it?", "max_tokens": 6}


@pytest.fixture
def storing(models, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start a server of a family with a store: ``storing("smolvlm", ServerConfig(...))``."""
    with ExitStack() as stack:

        def started(name: str, settings: ServerConfig | None = None) -> Served:
            model, _ = models(name)
            cutting = ChunkingOptions(max_tokens=64, seconds=0.8)
            RagEngine.open(tmp_path / "store", model, cutting=cutting).close()
            made = settings or ServerConfig(port=0)
            place = StoreAt(tmp_path / "store")
            return stack.enter_context(served(model, made, Limits(max_num_seqs=2), place))

        yield started


def added(server: Served, **files: bytes):
    body = {"files": [{"name": n, "data": coded(content)} for n, content in files.items()]}
    return server.http.post(ROUTE, json=body, timeout=120)


def test_an_image_is_uploaded_found_answered_from_and_returned(storing, tmp_path):
    server = storing("qwen2_5_vl")
    assert added(server, **{"cat.png": png(1), "dog.png": png(2)}).json()["passages"] == 2
    hits = server.http.post("/v1/rag/search", json={"question": "What is it?"}).json()["data"]
    assert {hit["document_id"] for hit in hits} == {"cat.png", "dog.png"}
    assert hits[0]["media"] == {"kind": "image", "page": None, "start": None, "end": None}
    answer = server.http.post("/v1/rag/answer", json=BRIEF).json()
    (source, *_) = answer["sources"]
    assert source["media"]["kind"] == "image"
    assert answer["trace"]["tokens_computed"] == 0 < answer["trace"]["tokens_reused"]
    for hit in hits:
        reply = server.http.get(f"/v1/rag/media/{hit['id']}")
        assert reply.headers["content-type"] == "image/png"
        assert reply.headers["x-content-type-options"] == "nosniff"
        seen = np.asarray(Image.open(io.BytesIO(reply.content)))
        sent = png(1) if hit["document_id"] == "cat.png" else png(2)
        assert np.array_equal(seen, np.asarray(Image.open(io.BytesIO(sent))))
    assert server.http.delete(f"{ROUTE}/cat.png").json()["passages"] == 1
    gone = next(hit["id"] for hit in hits if hit["document_id"] == "cat.png")
    assert server.http.get(f"/v1/rag/media/{gone}").status_code == 404


def test_the_answer_is_that_of_the_engine(storing, models, tmp_path):
    """With M-RoPE too, whose positions after an image are not the number of its tokens."""
    for family in ("qwen2_5_vl",):
        server = storing(family)
        added(server, **{"cat.png": png(1)})
        answer = server.http.post("/v1/rag/answer", json=BRIEF).json()
        _, oracle = models(family)
        with RagEngine.open(tmp_path / "store", oracle, read_only=True) as engine:
            expected = engine.answer(BRIEF["question"], max_new_tokens=6)
        assert answer["answer"] == expected.text


def test_pages_of_a_pdf_are_cited_by_their_numbers(storing):
    server = storing("smolvlm", ServerConfig(port=0, reader="pages"))
    reply = added(server, **{"report.pdf": lines_pdf(["Cats sleep.", "Dogs walk."])}).json()
    assert (reply["documents"], reply["passages"]) == (1, 2)
    body = {**BRIEF, "fusion": "token", "margin": 2.0}
    sources = server.http.post("/v1/rag/answer", json=body).json()["sources"]
    assert sorted(source["media"]["page"] for source in sources) == [1, 2]
    assert {source["text"] for source in sources} == {"report.pdf, page 1", "report.pdf, page 2"}
    listed = server.http.get(ROUTE).json()["data"]
    assert [each["metadata"] for each in listed] == [{}]


def test_sounds_are_uploaded_in_windows(storing):
    server = storing("qwen2_audio")
    assert added(server, **{"call.wav": wav(1, 2.0)}).json()["passages"] == 3
    hits = server.http.post("/v1/rag/search", json={"question": "What?"}).json()["data"]
    assert sorted(hit["media"]["start"] for hit in hits) == [0, 0.8, 1.6]
    reply = server.http.get(f"/v1/rag/media/{hits[0]['id']}")
    assert reply.headers["content-type"] == "audio/wav"
    assert reply.content[:4] == b"RIFF"


def test_bad_files_are_skipped_and_the_server_stays_well(storing):
    server = storing("smolvlm", ServerConfig(port=0, reader="pages", max_media_pixels=3000))
    reply = added(
        server,
        **{
            "broken.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 64,
            "large.png": png(1, (80, 60)),
            "broken.pdf": b"%PDF-1.4",
            "call.wav": wav(),
            "good.png": png(1),
        },
    ).json()
    reasons = {each["name"]: each["reason"] for each in reply["skipped"]}
    assert reasons["broken.png"].startswith("the image is not an image that is read here")
    assert "has 60 x 80 pixels, at most 3,000 are read" in reasons["large.png"]
    assert "no PDF that can be read" in reasons["broken.pdf"]
    assert reasons["call.wav"].startswith(".wav: not a kind that is read")
    assert reply["ids"] == ["good.png"]
    assert server.http.get("/health").status_code == 200


def test_files_of_passages_need_the_key_of_their_store(storing):
    server = storing("smolvlm", ServerConfig(port=0, api_keys=("sesame",)))
    key = {"Authorization": "Bearer sesame"}
    body = {"files": [{"name": "cat.png", "data": coded(png())}]}
    server.http.post(ROUTE, json=body, headers=key, timeout=120).raise_for_status()
    search = {"question": "What?"}
    (hit,) = server.http.post("/v1/rag/search", json=search, headers=key).json()["data"]
    path = f"/v1/rag/media/{hit['id']}"
    assert httpx.get(server.url + path).status_code == 401
    found = server.http.get(path, headers=key)
    assert found.status_code == 200
    assert found.headers["cache-control"] == "no-store"
    for name in ("x", "0" * 32, "..%2Fstore.json", hit["id"] + ".ids"):
        reply = server.http.get(f"/v1/rag/media/{name}", headers=key)
        assert reply.status_code == 404, name
    assert server.http.get(f"{path}?store=other", headers=key).status_code == 404


def test_a_server_of_a_text_model_refuses_the_reader_of_pages(grit, tmp_path):
    with (
        RagEngine.open(tmp_path / "store", grit) as engine,
        pytest.raises(
            InputError, match=r"the reader pages embeds images of pages, and .* text only"
        ),
    ):
        DocumentApi("default", engine, "pages")
