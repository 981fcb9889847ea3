"""The Python of docs/rag.md, docs/scale.md, docs/senses.md and of model cards (README.md) runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gritlm import GritLM
from gritlm.rag import RagEngine
from gritlm.serve.config import ServerConfig
from tests.doc_pages import ROOT, blocks
from tests.lm.media.checkpoints import FAMILIES
from tests.pdfs import lines_pdf
from tests.serve.conftest import served

VISION = "HuggingFaceTB/SmolVLM-500M-Instruct"
# Blocks of docs/scale.md that start processes of Ray with the default model, for minutes;
# tests/scale makes the same calls with tiny models, tests/test_blocks.py checks their arguments.
ON_RAY = ("print(train(run,", "report = evaluate(", "report = embed(")


def code_of(page: str) -> list[str]:
    return [each.text for each in blocks(page) if each.language == "python"]


def run(code: str, namespace: dict[str, Any]) -> dict[str, Any]:
    exec(compile(code, "page", "exec"), namespace)
    return namespace


def test_the_engine_of_rag_md_answers(
    default_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = code_of("docs/rag.md")
    answer = run(code, {})["answer"]
    assert "nine" in answer.text
    assert answer.sources[0].document_id == "library"


def test_the_default_model_card_runs(
    default_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = code_of("src/gritlm/lm/adapter/README.md")
    run(code, {})
    assert "volcano" in capsys.readouterr().out


def test_the_card_of_the_projectors_runs(
    towers_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = code_of("src/gritlm/lm/media/projectors/README.md")
    made = run(code, {})
    assert capsys.readouterr().out == "('text', 'image', 'sound')\n"
    picture, name = made["vectors"]
    assert made["model"].similarity(picture, name) > 0


def test_shared_blocks_of_scale_md_are_opened(
    tiny_model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = GritLM(tiny_model(max_position_embeddings=1024), dtype="float32", device="cpu")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gritlm.rag.engine.GritLM", lambda: model)
    with RagEngine.open("store", model) as engine:
        engine.add([{"id": "war", "text": "It began in May and ended in June."}])
    rest = [code for code in code_of("docs/scale.md") if not any(call in code for call in ON_RAY)]
    assert len(rest) == len(code_of("docs/scale.md")) - len(ON_RAY)
    for code in rest:
        run(code, {})
    assert "'disk':" in capsys.readouterr().out  # the bytes of each tier


@pytest.fixture
def seeing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GritLM:
    """A tiny model of the family that docs/senses.md loads, next to two pages and a PDF."""
    model = GritLM(FAMILIES["smolvlm"](tmp_path / "model"), dtype="float32", device="cpu")
    names = {VISION: model}
    monkeypatch.setattr("gritlm.GritLM", lambda name: names[name])
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        Image.new("RGB", (40, 60), (90 * number, 30, 60)).save(f"page-{number}.png")
    Path("reports").mkdir()
    Path("reports/travel.pdf").write_bytes(lines_pdf(["Travel: 40 euros", "Food: 10 euros"]))
    return model


def test_the_python_of_senses_md_runs(seeing: GritLM) -> None:
    namespace: dict[str, Any] = {}
    with served(seeing, ServerConfig(port=0, names=("gritlm",))) as live:
        for code in code_of("docs/senses.md"):
            if '"senses"' in code:
                continue  # tests/lm/media/test_senses_model.py runs it with the towers
            run(code.replace("http://127.0.0.1:8000", live.url), namespace)
        namespace["client"].close()
    assert namespace["best"] in (0, 1)
    assert namespace["model"] is seeing
    assert seeing.media_rules.most_pixels == 16_000_000
    assert namespace["place"].page in (1, 2)
    assert namespace["kind"] == "image"
    assert namespace["png"].startswith(b"\x89PNG")
    assert len(namespace["vectors"].data) == 2
