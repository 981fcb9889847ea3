"""Search between images or sounds and their texts."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from gritlm import GritLM, gritlm_instruction
from gritlm.errors import InputError, ModelError
from gritlm.evaluation.senses import measure, search
from tests.evaluation.senses import tasks


def test_ranks_are_those_of_the_best_right_candidate():
    similarity = np.array([[0.9, 0.5, 0.7], [0.1, 0.2, 0.3]])
    right = np.array([[False, True, True], [True, False, False]])
    assert search.best_ranks(similarity, right).tolist() == [2, 3]


def test_a_model_whose_vectors_are_all_the_same_gets_no_credit():
    right = np.eye(5, dtype=bool)
    assert search.best_ranks(np.ones((5, 5)), right).tolist() == [5] * 5


def test_both_directions_are_measured_as_by_hand(seeing: GritLM, tmp_path: Path):
    task = tasks.named(tmp_path / "pictures-of-mine")
    there, back = measure.measure(seeing, task, batch_size=3)
    assert (there.task, there.kind) == ("pictures-of-mine (picture to name)", "picture to name")
    assert (back.task, back.kind) == ("pictures-of-mine (name to picture)", "name to picture")
    files = [tmp_path / f"pictures-of-mine/pictures/{i}.png" for i in range(4)]
    pictures = [seeing.encode(file, instruction=gritlm_instruction()) for file in files]
    texts = ["red ball", "blue car", "green tree"]
    names = [seeing.encode(text, instruction=gritlm_instruction()) for text in texts]
    cosines = np.array(pictures) @ np.array(names).T
    nearest = [texts[i] for i in cosines.argmax(axis=1)]
    assert there.items == tuple(
        float(found == name) for found, name in zip(nearest, tasks.NAMES, strict=True)
    )
    chosen = [tasks.NAMES[i] for i in cosines.argmax(axis=0)]
    assert back.items == tuple(float(one == two) for one, two in zip(chosen, texts, strict=True))
    assert (there.count, back.count) == (4, 3)
    assert there.score == pytest.approx(100 * np.mean(there.items))
    assert there.half == "senses"
    assert there.metric == "recall_at_1"
    assert there.details["candidates"] == 3
    assert back.details["candidates"] == 4
    assert there.details["recall_at_10"] == 100
    assert there.details["recall_at_10_low"] <= there.details["recall_at_10_high"]


def test_a_model_that_reads_everything_right_has_all_of_them(seeing: GritLM, tmp_path: Path):
    task = tasks.named(tmp_path / "pictures")
    axes = {name: number for number, name in enumerate(dict.fromkeys(tasks.NAMES))}

    def perfect(many, **_):
        names = [
            one if isinstance(one, str) else tasks.NAMES[int(one["image"].stem)] for one in many
        ]
        return np.eye(3, dtype=np.float32)[[axes[name] for name in names]]

    with patch.object(GritLM, "encode", side_effect=perfect):
        results = measure.measure(seeing, task)
    assert [result.score for result in results] == [100, 100]


def test_instructions_of_a_task_are_those_of_pictures_and_of_texts(seeing: GritLM, tmp_path: Path):
    folder = tmp_path / "pictures"
    tasks.named(folder)
    (folder / "task.toml").write_text('instruction = "Name it"\npassage_instruction = "A name"\n')
    (task,) = tasks.discovery.local(folder)
    with patch.object(GritLM, "encode", side_effect=seeing.encode) as encode:
        measure.measure(seeing, task)
    headers = [call.kwargs["instruction"] for call in encode.call_args_list]
    assert headers == [gritlm_instruction("Name it"), gritlm_instruction("A name")]


def test_sounds_are_searched_too(hearing: GritLM, tmp_path: Path):
    there, back = measure.measure(hearing, tasks.spoken(tmp_path / "speech"), limit=2)
    assert (there.kind, back.kind) == ("speech to sentence", "sentence to speech")
    assert (there.count, back.count) == (2, 2)


def test_vectors_that_are_not_finite_have_no_result(seeing: GritLM, tmp_path: Path):
    task = tasks.named(tmp_path / "pictures")
    with (
        patch.object(GritLM, "similarity", return_value=torch.full((4, 3), torch.nan)),
        pytest.raises(ModelError, match="not finite"),
    ):
        measure.measure(seeing, task)


def test_a_model_refuses_a_task_that_it_does_not_read(hearing: GritLM, tmp_path: Path):
    task = tasks.named(tmp_path / "pictures")
    with pytest.raises(InputError, match="reads text and sound; the task has text and images"):
        measure.measure(hearing, task)
