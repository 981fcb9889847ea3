"""Questions about images."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest

from gritlm import GritLM
from gritlm.evaluation.senses import measure
from gritlm.evaluation.senses.picture_questions import is_right
from tests.evaluation.senses import tasks


@pytest.mark.parametrize(
    ("output", "answers", "right"),
    [
        ("A red ball.", ["ball"], 1),
        ("A football.", ["ball"], 0),
        ("Yes, it is.", ["yes"], 1),
        ("Yes or no.", ["no"], 0),
        ("No! Yes.", ["no"], 1),
        ("There is none.", ["no"], 0),
        ("", ["yes"], 0),
    ],
)
def test_an_answer_is_right_if_it_names_the_reference(output, answers, right):
    assert is_right(output, answers) == right


def test_every_question_is_asked_with_its_picture(seeing: GritLM, tmp_path: Path):
    task = tasks.asked(tmp_path / "shapes")
    replies = ["Yes.", "Yes.", "a sphere"]
    with patch.object(GritLM, "chat", side_effect=replies) as chat:
        (result,) = measure.measure(seeing, task)
    assert result.items == (1.0, 0.0, 1.0)
    assert result.score == pytest.approx(200 / 3)
    assert (result.task, result.metric, result.half) == ("shapes", "match", "senses")
    # Without its article, "a sphere" is a reference.
    assert result.details == {
        "em": pytest.approx(200 / 3),
        "match_yes_no": 50,
        "match_other": 100,
    }
    contents = [call.args[0][0]["content"] for call in chat.call_args_list]
    assert [[part["type"] for part in content] for content in contents] == [["image", "text"]] * 3
    assert [content[1]["text"] for content in contents] == [q for q, _ in tasks.QUESTIONS]


def test_a_tiny_model_answers(seeing: GritLM, tmp_path: Path):
    task = tasks.asked(tmp_path / "shapes")
    (result,) = measure.measure(seeing, task, limit=2)
    assert result.count == 2
    parts = [
        {"type": "image", "path": tmp_path / "shapes/ball.png"},
        {"type": "text", "text": "Is it red?"},
    ]
    output = seeing.chat([{"role": "user", "content": parts}], max_new_tokens=16)
    assert result.items[0] == is_right(output, ["yes"])


def test_the_instruction_of_a_task_follows_each_question(seeing: GritLM, tmp_path: Path):
    folder = tmp_path / "shapes"
    tasks.asked(folder)
    (folder / "task.toml").write_text('instruction = "Answer with one word."\n')
    (task,) = tasks.discovery.local(folder)
    with patch.object(GritLM, "chat", return_value="yes") as chat:
        measure.measure(seeing, task, limit=1)
    (content,) = [call.args[0][0]["content"] for call in chat.call_args_list]
    assert content[1]["text"] == "Is it red?\nAnswer with one word."
