"""What a run tells: lines that survive a torn end, a plot, a real tracker."""

from __future__ import annotations

import pytest

from gritlm.errors import MissingExtraError
from gritlm.train.run import metrics_log
from gritlm.train.trainer import train
from tests.train import runs


def test_lines_behind_the_step_that_is_gone_on_from_are_dropped(tmp_path):
    lines = ['{"step": 1, "loss": 3.0}', '{"step": 2, "loss": 2.0}', '{"step": 3, "lo']
    (tmp_path / metrics_log.FILE).write_text("\n".join(lines), encoding="utf-8")
    assert [entry["step"] for entry in metrics_log.read(tmp_path)] == [1, 2]
    opened = metrics_log.MetricsLog(tmp_path, steps=3, done=1, bar=False)
    opened.step(2, {"loss": 2.5}, tokens=10)
    opened.close()
    assert [entry["loss"] for entry in metrics_log.read(tmp_path)] == [3.0, 2.5]


def test_only_every_so_many_steps_are_noted(tmp_path):
    opened = metrics_log.MetricsLog(tmp_path, steps=6, every=3, bar=False)
    for number in range(1, 7):
        opened.step(number, {"loss": 1.0}, tokens=10)
    opened.close()
    assert [entry["step"] for entry in metrics_log.read(tmp_path)] == [3, 6]


def test_the_plot_is_a_picture_of_what_was_noted(tmp_path):
    opened = metrics_log.MetricsLog(tmp_path, steps=4, bar=False)
    for number in range(1, 5):
        opened.step(number, {"loss_emb": 4.0 / number, "loss_gen": 2.0}, tokens=10)
    opened.evaluation(4, {"loss_gen": 2.1})
    opened.close()
    assert metrics_log.plot(tmp_path).read_bytes().startswith(b"\x89PNG")


def test_tensorboard_gets_the_numbers_of_every_step(tmp_path):
    run = runs.make(tmp_path, training={"report_to": ("tensorboard",), "max_steps": 2})
    train(run)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "out" / "trackers"))
    found.Reload()
    (first, second) = found.Scalars("loss_emb")
    course = runs.losses(run)
    assert (first.step, second.step) == (1, 2)
    assert first.value == pytest.approx(course[0]["loss_emb"], rel=1e-6)


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    from accelerate import tracking

    monkeypatch.setattr(tracking, "is_wandb_available", lambda: False)
    with pytest.raises(MissingExtraError, match="wandb"):
        metrics_log.MetricsLog(tmp_path, steps=1, trackers=("wandb",), bar=False)
