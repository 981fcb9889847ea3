"""Fusion settings are those with which the right passage is chosen on the given questions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.evaluation.rag.calibrate import MISSED, ScoredQuestion, calibrate, choose
from gritlm.lm.hub.model_config import FusionSettings, ModelSettings, read_settings
from tests import tiny

NEAR = ScoredQuestion((0.60, 0.58, 0.20), (-3.0, -2.0, -1.0), -4.0, (False, True, False))


def test_the_likelihood_decides_between_near_cosines_and_the_margin_keeps_far_ones_out():
    found = choose([NEAR] * 30)
    assert found.right == 1.0
    assert found.right_by_cosine == 0.0
    assert 0.02 <= found.settings.margin < 0.4
    assert found.passages == 2.0


def test_the_cosine_decides_where_the_likelihood_is_wrong():
    wrong = replace(NEAR, likelihoods=(-2.0, -3.0, -3.0), right=(False, True, False))
    right = ScoredQuestion((0.9, 0.3, 0.2), (-3.0, -2.9, -2.9), -4.0, (True, False, False))
    found = choose([right] * 30 + [wrong])
    assert found.right == pytest.approx(30 / 31)


def test_the_threshold_misses_few_answerable_questions():
    gains = [replace(NEAR, alone=-2.0 - 0.01 * n, right=(False, True, False)) for n in range(100)]
    found = choose(gains)
    assert found.settings.absent == pytest.approx(0.01 * 100 * MISSED, abs=0.01)
    missed = sum(0.01 * n < found.settings.absent for n in range(100))
    assert missed <= 100 * MISSED


@pytest.fixture
def task(tmp_path):
    folder = tmp_path / "task"
    folder.mkdir()
    documents = [{"title": "", "text": text} for text in tiny.SENTENCES[:4]]
    rows = [
        {
            "question": f"What about number {n}?",
            "answers": ["red"],
            "documents": documents,
            "gold": 1,
        }
        for n in range(24)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "test.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_a_real_model_is_calibrated_and_keeps_the_settings(task, tmp_path):
    folder = tiny.folder(tmp_path / "model", max_position_embeddings=512)
    model = GritLM(folder, dtype="float32")
    found = calibrate(model, task)
    assert found.questions == 24
    assert 0 <= found.right_by_cosine <= 1
    assert 1 <= found.passages <= 4
    ModelSettings(fusion=found.settings).save(folder)
    assert read_settings(folder).fusion == found.settings
    assert GritLM(folder, dtype="float32").settings.fusion == found.settings


def test_too_few_questions_are_refused(task, tmp_path):
    model = GritLM(tiny.folder(tmp_path / "model", max_position_embeddings=512), dtype="float32")
    with pytest.raises(InputError, match="has 3 questions with a right and a wrong document"):
        calibrate(model, task, limit=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cosine": -1.0, "margin": 0.1}, "fusion.cosine=-1.0"),
        ({"cosine": 1.0, "margin": float("nan")}, "fusion.margin=nan"),
        ({"cosine": True, "margin": 0.1}, "fusion.cosine=True"),
    ],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        FusionSettings(**values)


def test_questions_whose_right_document_is_not_read_do_not_count(task, tmp_path):
    """More documents than rows: the right one of some questions is cut."""
    documents = [{"title": "", "text": f"number {n} of many"} for n in range(60)]
    rows = [
        {"question": f"Which is {n}?", "answers": ["red"], "documents": documents, "gold": 1}
        for n in range(24)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (task / "test.jsonl").write_text(text, encoding="utf-8")
    model = GritLM(tiny.folder(tmp_path / "model", max_position_embeddings=512), dtype="float32")
    with pytest.raises(InputError, match=r"the right document of \d+ questions could be read"):
        calibrate(model, task)
