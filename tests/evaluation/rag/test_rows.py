"""Rows of a task's folder, good ones and bad ones."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from gritlm.errors import InputError
from gritlm.evaluation.rag.questions import in_reading_order, load
from tests.evaluation.rag.conftest import GOLD, OTHERS, ROWS


def test_a_row_is_a_question_with_its_gold_documents(make_task):
    first, second, third = load(make_task().folder)
    assert (first.text, first.answers, first.gold) == (ROWS[0]["question"], ("red",), (GOLD,))
    assert set(first.documents) == {GOLD, *OTHERS}
    assert f"Water {OTHERS[2]}" in second.documents
    assert set(third.gold) == {OTHERS[0], "Cats have a blue car."}
    assert third.place.endswith("test.jsonl:3")


def test_gold_documents_keep_their_order_among_all(make_task):
    *_, question = load(make_task().folder)
    assert tuple(text for text in question.documents if text in question.gold) == question.gold


def test_only_the_first_rows_are_read_up_to_the_limit(make_task):
    assert len(load(make_task(lines=["broken"]).folder, limit=2)) == 2


def test_the_order_depends_on_the_question_and_not_on_the_order_given():
    texts = [GOLD, *OTHERS]
    orders = {in_reading_order(f"question {n}", texts) for n in range(30)}
    assert len(orders) > 10
    assert in_reading_order("q", texts) == in_reading_order("q", [*texts[::-1], GOLD])


def test_the_gold_document_gets_every_place_alike():
    questions = [f"question {number}" for number in range(2000)]
    places = Counter(in_reading_order(q, [GOLD, *OTHERS]).index(GOLD) for q in questions)
    assert all(400 < places[place] < 600 for place in range(4))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"question": " "}, "test.jsonl:4: question is ' '; expected a text"),
        ({"answers": []}, "test.jsonl:4: answers is .*; expected a list"),
        ({"answers": "red"}, "test.jsonl:4: answers is 'red'; expected a list"),
        ({"answers": ["red", 7]}, r"test.jsonl:4: answers\[1\] is 7; expected a text"),
        ({"answers": ["The?"]}, "test.jsonl:4: answers is .*; expected one with a word"),
        ({"documents": [GOLD, ""]}, r"test.jsonl:4: documents\[1\] is ''; expected a text"),
        ({"documents": [{"title": "T"}]}, "test.jsonl:4: document 0 has no 'text'"),
        ({"documents": [GOLD], "gold": 2}, "test.jsonl:4: gold is 2; .* 1 to 1"),
        ({"gold": True}, "test.jsonl:4: gold is True"),
        ({"question": "\ud800"}, "test.jsonl:4: question has a lone surrogate"),
    ],
)
def test_a_bad_row_is_named_with_what_was_expected(make_task, changes, said):
    with pytest.raises(InputError, match=said):
        load(make_task(lines=[json.dumps(ROWS[0] | changes)]).folder)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "test.jsonl:4: broken JSON"),
        ("[1]", "test.jsonl:4: list; expected one JSON object"),
        ('{"question": "Who?"}', "test.jsonl:4: no 'answers'; it has question"),
    ],
)
def test_a_line_that_is_no_row_is_named(make_task, line, said):
    with pytest.raises(InputError, match=said):
        load(make_task(lines=[line]).folder)


def test_a_missing_and_an_empty_file_are_refused(make_task, tmp_path):
    with pytest.raises(InputError, match=r"test.jsonl is missing"):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"test.jsonl is empty"):
        load(make_task([]).folder)
