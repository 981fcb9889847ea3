"""``gritlm index --pages`` and ``gritlm ask``: pages and recordings are indexed and cited."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lm.media.checkpoints import qwen2_audio, smolvlm
from tests.pdfs import lines_pdf
from tests.rag.media.conftest import picture, recording


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return _options(smolvlm(tmp_path_factory.mktemp("smolvlm")))


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return _options(qwen2_audio(tmp_path_factory.mktemp("qwen2_audio")))


def _options(folder: Path) -> list[str]:
    return ["--model", str(folder), "--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "report.pdf").write_bytes(lines_pdf(["Cats sleep.", "Dogs walk."]))
    picture(folder / "photo.png")
    recording(folder / "call.wav")
    return folder


def test_pages_and_images_are_indexed_and_answers_cite_their_pages(run, seeing, files, tmp_path):
    store = str(tmp_path / "store")
    result = run("index", str(files), "--pages", "--to", store, *seeing)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("added 2 documents (0 of them replaced) with 3 passages")
    assert "call.wav: .wav: this model reads text and image only; load a model" in result.stderr
    ask = ("ask", "What?", "--store", store, "--max-new-tokens", "4", "--fusion", "token")
    result = run(*ask, "--margin", "2", *seeing)
    assert result.exit_code == 0, result.output
    for place in ("files/report.pdf, page 1  image", "files/report.pdf, page 2  image"):
        assert place in result.stdout
    assert "files/photo.png  image" in result.stdout
    assert '"' not in result.stdout.split("\n\n")[-1]  # no sentence of an image is quoted
    answer = json.loads(run(*ask, "--margin", "2", "--json", *seeing).stdout)
    assert answer["quote"] is None
    pages = {each["document_id"]: each["media"] for each in answer["sources"]}
    assert pages["files/photo.png"] == {"kind": "image", "page": None, "start": None, "end": None}
    assert pages["files/report.pdf"]["page"] in (1, 2)


def test_recordings_are_indexed_in_windows_and_cited_with_their_times(run, hearing, files):
    store = str(files.parent / "store")
    words = ("index", str(files / "call.wav"), "--window-seconds", "0.8", "--to", store)
    result = run(*words, *hearing)
    assert "with 3 passages" in result.stdout
    ask = ("ask", "What?", "--store", store, "--max-new-tokens", "4", "--json")
    (first, *_) = json.loads(run(*ask, *hearing).stdout)["sources"]
    assert first["media"]["kind"] == "sound"
    assert first["media"]["end"] - first["media"]["start"] <= 0.81
    result = run(*ask[:-1], *hearing)
    assert "files/call.wav, 0:0" in result.stdout
    again = run(*words[:-4], "--window-seconds", "0.5", "--to", store, *hearing)
    assert "was made with cutting=" in again.stderr


def test_pages_with_their_text_too(run, seeing, files, tmp_path):
    store = str(tmp_path / "store")
    words = ("index", str(files / "report.pdf"), "--reader", "pages-and-text", "--to", store)
    assert "with 3 passages" in run(*words, *seeing).stdout


def test_pages_for_a_model_of_text_are_refused_before_a_store_is_made(
    error_of, model_options, files, tmp_path
):
    store = tmp_path / "store"
    for option in (["--pages"], ["--reader", "pages-and-text"]):
        line = error_of("index", str(files), *option, "--to", str(store), *model_options)
        assert "embeds images of pages, and" in line
        assert "reads text only; load a model that reads images" in line
        assert not store.exists()


def test_pages_and_another_reader_are_refused(error_of, model_options, files, tmp_path):
    words = ("index", str(files), "--pages", "--reader", "pages-and-text", "--to", "store")
    assert "--pages and --reader pages-and-text: give one" in error_of(*words, *model_options)
    words = ("index", str(files), "--pages", "--ray", "--to", str(tmp_path / "store"))
    assert "--ray takes neither --causal, --pages nor" in error_of(*words, *model_options)
