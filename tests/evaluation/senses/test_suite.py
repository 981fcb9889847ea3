"""The suite of images and sound, and models that do not read them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import gritlm
from gritlm.errors import InputError
from gritlm.evaluation import inputs, loading, models
from gritlm.evaluation.cache import ResultCache
from gritlm.evaluation.outcome import Report
from gritlm.evaluation.report import view
from gritlm.evaluation.report.write import write_report
from gritlm.evaluation.run import evaluate
from gritlm.evaluation.runner import RunnerOptions
from gritlm.evaluation.senses import media_rows
from gritlm.evaluation.tasks import suites
from gritlm.evaluation.tasks.bad_rows import BadRows
from gritlm.evaluation.tasks.suites import SuitePlan
from gritlm.lm.media.files import LOCAL
from gritlm.lm.media.towers import projector_loading
from tests import tiny
from tests.evaluation.senses import tasks

OPTIONS = RunnerOptions(device="cpu", dtype="float32")


@pytest.fixture
def plan(tmp_path: Path) -> SuitePlan:
    tasks.named(tmp_path / "data" / "pictures")
    tasks.spoken(tmp_path / "data" / "speech")
    tasks.asked(tmp_path / "data" / "shapes")
    return suites.make_plan("senses", data=tmp_path / "data")


def run(cache: Path, plan: SuitePlan, *folders: Path) -> Report:
    found = [models.find_model(str(folder)) for folder in folders]
    return evaluate(found, plan, cache=ResultCache(cache), options=OPTIONS)


def test_the_samples_of_the_suite_are_small_and_whole():
    plan = suites.make_plan("senses")
    assert {each.name: each.task.type for each in plan.tasks} == {
        "Clipart": "ImageText",
        "Shapes": "ImageQA",
        "Speech": "AudioText",
    }
    counts = {}
    for each in plan.tasks:
        rows = media_rows.read(each.task, limit=None, bad=BadRows(), rules=LOCAL)
        counts[each.name] = (len(rows), len({tuple(row.media.values()) for row in rows}))
    assert counts == {"Clipart": (60, 60), "Shapes": (160, 40), "Speech": (20, 20)}
    folder = suites.SAMPLES / "senses"
    sizes = {
        name: sum(file.stat().st_size for file in folder.joinpath(name).rglob("*.*"))
        for name in counts
    }
    assert sizes["Clipart"] + sizes["Shapes"] < 400_000
    assert sizes["Speech"] < 1_500_000


def test_a_model_is_measured_on_the_tasks_that_it_reads(
    tmp_path: Path, plan: SuitePlan, seeing_folder: Path
):
    text = tiny.folder(tmp_path / "text")
    report = run(tmp_path / "cache", plan, seeing_folder, text)
    seeing, reading = report.models
    assert [result.task for result in seeing.results] == [
        "pictures (picture to name)",
        "pictures (name to picture)",
        "shapes",
    ]
    assert [(each.task, each.reason) for each in seeing.skipped] == [
        ("speech", "it reads text and images; the task has text and sound")
    ]
    assert not reading.results
    assert {each.task: each.reason for each in reading.skipped} == {
        "pictures": "it reads text; the task has text and images",
        "shapes": "it reads text; the task has text and images",
        "speech": "it reads text; the task has text and sound",
    }
    (section,) = view.sections(report)
    assert section.kind == "senses"
    assert section.headline.count == 3
    assert section.rows[0].cells[0].score.low is not None
    for path in write_report(report, tmp_path / "report"):
        assert "pictures (name to picture)" in path.read_text(encoding="utf-8")
    assert "Images and sound" in (tmp_path / "report/report.html").read_text(encoding="utf-8")
    again = run(tmp_path / "cache", plan, seeing_folder)
    assert again.models[0].computed == ()
    assert again.models[0].results == seeing.results


def test_another_picture_is_another_task(tmp_path: Path, plan: SuitePlan, seeing_folder: Path):
    only = SuitePlan("senses", plan.tasks[:1])
    assert run(tmp_path / "cache", only, seeing_folder).models[0].computed == ("pictures",)
    tasks.picture(tmp_path / "data/pictures/pictures/1.png", 99)
    assert run(tmp_path / "cache", only, seeing_folder).models[0].computed == ("pictures",)


def test_a_named_task_that_no_model_reads_is_refused(
    tmp_path: Path, plan: SuitePlan, seeing_folder: Path
):
    text = tiny.folder(tmp_path / "text")
    data = tmp_path / "data"
    named = suites.make_plan(tasks=["speech"], data=data)
    with pytest.raises(InputError, match=r"task 'speech' cannot be measured .*name a model that"):
        run(tmp_path / "cache", named, text, seeing_folder)
    assert not (tmp_path / "cache").exists()
    pictures = suites.make_plan(tasks=["pictures"], data=data)
    report = run(tmp_path / "cache", pictures, text, seeing_folder)
    assert [len(model.results) for model in report.models] == [0, 2]


def test_files_tell_what_a_model_reads(tmp_path: Path, seeing_folder: Path):
    text = tiny.folder(tmp_path / "text")
    assert inputs.of_model(seeing_folder, tmp_path) == {"text", "image"}
    assert inputs.of_model(text, tmp_path / "senses") == {"text"}
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    assert inputs.of_model(tmp_path, tmp_path) == {"text"}


def test_projectors_belong_to_a_model(tmp_path: Path):
    text = tiny.folder(tmp_path / "text")
    plain = models.find_model(str(text))
    (text / "senses").mkdir()
    save_file({"weight": torch.ones(2)}, text / "senses" / "sound.safetensors")
    hears = models.find_model(str(text))
    assert (plain.reads, hears.reads) == ({"text"}, {"text", "sound"})
    assert hears.digest != plain.digest
    assert hears.own_name is None


def test_the_small_model_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = tiny.folder(tmp_path / "text")
    monkeypatch.setattr(models, "_resolve", lambda name: (text, None))
    monkeypatch.setattr(projector_loading, "OF_DEFAULT_MODEL", tmp_path)
    for kind in ("image", "sound"):
        save_file({"weight": torch.ones(2)}, tmp_path / f"{kind}.safetensors")
    default, senses = models.find_models(["default", "senses"])
    assert (default.own_name, senses.own_name) == (None, "senses")
    assert default.reads == {"text"}
    assert senses.reads == {"text", "image", "sound"}
    assert senses.digest != default.digest
    taken = []
    monkeypatch.setattr(gritlm, "GritLM", lambda name, **_: taken.append(name))
    for each in (default, senses):
        with loading.loaded(each, device="cpu", dtype=None):
            pass
    assert taken == [text, "senses"]
