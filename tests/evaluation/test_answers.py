"""Match, exact match and F1 of answers in words."""

from __future__ import annotations

import pytest

from gritlm.evaluation import answers


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Beatles' 1st album.", "beatles 1st album"),
        ("An apple\na day", "apple day"),
        ("Athens", "athens"),  # an article inside of a word stays
        ("U.S.A.", "usa"),
        ("Über", "über"),
        ("the", ""),
    ],
)
def test_case_punctuation_articles_and_space_do_not_count(text, normal):
    assert answers.normalise(text) == normal


@pytest.mark.parametrize(
    ("output", "gold", "found"),
    [
        ("It was Neil Armstrong, in 1969.", ["Neil Armstrong"], 1.0),
        ("It was the armstrong!", ["Neil Armstrong", "Armstrong"], 1.0),
        ("Armstrong Neil", ["Neil Armstrong"], 0.0),
        ("A category", ["cat"], 0.0),  # whole words only
        ("1969", ["19"], 0.0),
        ("", ["Armstrong"], 0.0),
        ("the answer", ["the"], 0.0),  # nothing is left of this answer
        ("first line\nand Paris at last", ["Paris"], 1.0),  # the whole output counts
    ],
)
def test_a_match_is_an_answer_in_the_output_as_whole_words(output, gold, found):
    assert answers.match(output, gold) == found


def test_an_exact_match_has_no_word_more():
    assert answers.exact("The red ball.", ["blue", "red ball"]) == 1.0
    assert answers.exact("A red ball it is", ["red ball"]) == 0.0


def test_f1_is_that_of_the_best_answer():
    # two words in common of three and of two
    assert answers.f1("big red ball", ["blue", "red ball"]) == pytest.approx(0.8)
    assert answers.f1("red red", ["red"]) == pytest.approx(2 / 3)
    assert answers.f1("green", ["red ball"]) == 0.0
    assert answers.f1("", ["red"]) == 0.0
