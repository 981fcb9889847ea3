"""The model ``senses``: the default model with small towers and the projectors of the package."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gritlm import GritLM
from gritlm.errors import InputError, ModelError
from gritlm.lm.media.towers.projector_loading import OF_DEFAULT_MODEL

ROOT = Path(__file__).parents[3]
SHAPE = ROOT / "examples" / "pictures" / "shape.png"
TEXTS = ["A volcano is a vent in the crust.", "What does a bee make?"]


@pytest.fixture(scope="module")
def model(towers_folder: Path) -> GritLM:
    return GritLM("senses", dtype="float32")


def _question(text: str) -> list[dict[str, object]]:
    picture = {"type": "image", "path": str(SHAPE)}
    return [{"role": "user", "content": [picture, {"type": "text", "text": text}]}]


def test_reads_images_and_sound(model: GritLM) -> None:
    assert model.reads == ("text", "image", "sound")


def test_texts_are_read_as_by_the_default_model_to_the_last_bit(model: GritLM) -> None:
    default = GritLM(dtype="float32")
    vectors, blocks = model.encode_document(TEXTS, get_cache=True)
    wanted, wanted_blocks = default.encode_document(TEXTS, get_cache=True)
    assert np.array_equal(vectors, wanted)
    for block, other in zip(blocks, wanted_blocks, strict=True):
        assert torch.equal(block.data, other.data)
    options = {"max_new_tokens": 12}
    assert model.chat(TEXTS[1], **options) == default.chat(TEXTS[1], **options)
    assert model.chat(TEXTS[1], kv=blocks[0], **options) == default.chat(
        TEXTS[1], kv=wanted_blocks[0], **options
    )


@pytest.mark.parametrize(
    ("question", "answer"),
    [("what is the red shape?", "triangle"), ("does the image contain a circle?", "no")],
)
def test_sees_a_red_triangle(model: GritLM, question: str, answer: str) -> None:
    assert model.chat(_question(question), max_new_tokens=4).strip().lower() == answer


def test_answers_from_the_state_of_an_embedded_picture(model: GritLM) -> None:
    question = "what is the red shape?"
    vectors, blocks = model.encode_document([SHAPE], get_cache=True)
    assert vectors.shape == (1, model.embedding_dimension)
    causal = model.chat(question, kv=blocks[0], max_new_tokens=4)
    assert isinstance(causal, str)


def test_a_saved_model_keeps_its_senses(model: GritLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved")
    again = GritLM(tmp_path / "saved", dtype="float32")
    assert again.reads == model.reads
    inputs = [SHAPE, *TEXTS]
    assert np.allclose(again.encode(inputs), model.encode(inputs), atol=1e-5)


def test_another_adapter_is_refused(tmp_path: Path, default_folder: Path) -> None:
    with pytest.raises(InputError, match=r"'senses' takes no other adapter, it got .*own"):
        GritLM("senses", adapter=tmp_path / "own")


def test_a_projector_for_another_decoder_next_to_a_model_is_refused(
    tiny_model: Callable[..., Path], towers_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model(), tmp_path / "model")
    shutil.copytree(OF_DEFAULT_MODEL, folder / "senses")
    with pytest.raises(ModelError, match="is for a decoder of hidden size 576"):
        GritLM(folder)


def test_the_example_of_the_docs_prints_what_it_says(
    towers_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / "senses.md").read_text(encoding="utf-8")
    code = next(b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if '"senses"' in b)
    exec(compile(code, "senses.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed == re.findall(r"^print\(.*\)  # (.+)$", code, re.MULTILINE)
