"""Hard negatives for rows, found by a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gritlm import GritLM, gritlm_instruction
from gritlm.errors import InputError
from gritlm.train.config import SourceConfig
from gritlm.train.data.examples import EmbeddingExample, InstructedText
from gritlm.train.data.formats import parse
from gritlm.train.mining.mine import mine_rows, record
from gritlm.train.mining.negatives import MiningConfig
from tests import tiny

CORPUS = [
    InstructedText(text)
    for text in [*tiny.SENTENCES, "A ball.", "Who walks dogs?", "The lazy fox."]
]


@pytest.fixture(scope="module")
def lm(tiny_model: Callable[..., Path]) -> GritLM:
    return GritLM(tiny_model(), dtype="float32", device="cpu", mode="embedding")


def row(query: str, *positives: str, negatives: tuple[str, ...] = ()) -> EmbeddingExample:
    return EmbeddingExample(
        InstructedText(query),
        tuple(map(InstructedText, positives)),
        tuple(map(InstructedText, negatives)),
    )


def mined(
    lm: GritLM, *rows: EmbeddingExample, corpus=CORPUS, **settings: object
) -> list[list[str]]:
    asked = MiningConfig(**{"num_negatives": 3, **settings})
    return [made["neg"] for made in mine_rows(lm, rows, asked, corpus=corpus)]


def test_negatives_are_the_nearest_passages_with_the_instructions_of_training(lm):
    query, passage = InstructedText("Where is the ball?", "Find a place"), "Read a fact"
    corpus = [InstructedText(each.text, passage) for each in CORPUS]
    asked = EmbeddingExample(query, (corpus[2],))
    query_D = lm.encode(query.text, instruction=gritlm_instruction(query.instruction))
    passage_PD = lm.encode([each.text for each in corpus], instruction=gritlm_instruction(passage))
    score_P = lm.similarity(query_D, passage_PD)[0]
    ranked = [corpus[i].text for i in score_P.argsort(descending=True) if i != 2]
    expected = [[passage, text] for text in ranked[:3]]
    assert mined(lm, asked, corpus=corpus) == [expected]
    plain = mined(lm, row(query.text, corpus[2].text))
    assert plain != [ranked[:3]]  # so the instructions do matter


@pytest.mark.parametrize("near", ["A BALL", "a  ball!", "“A ball”"])
def test_a_passage_nearly_equal_to_a_positive_is_no_negative(lm, near):
    (found,) = mined(lm, row("Where is it?", near), num_negatives=50, range_max=50)
    assert "A ball." not in found
    assert len(found) == len(CORPUS) - 1


def test_the_answers_of_the_same_query_in_other_rows_are_no_negatives(lm):
    rows = row("Where is it?", "A ball."), row("where is it", "The lazy fox.")
    for found in mined(lm, *rows, num_negatives=50, range_max=50):
        assert not {"A ball.", "The lazy fox."} & set(found)


def test_the_query_itself_is_no_negative(lm):
    (found,) = mined(lm, row("Who walks dogs?", "Bob."), num_negatives=50, range_max=50)
    assert "Who walks dogs?" not in found


def test_no_negative_comes_twice(lm):
    (found,) = mined(lm, row("Where?", "Bob."), corpus=CORPUS * 2, num_negatives=50, range_max=50)
    assert sorted(found) == sorted(text.text for text in CORPUS)


def test_negatives_that_were_there_come_first_and_stay(lm):
    kept = ("Something else.", "A ball.")
    (found,) = mined(lm, row("Where is it?", "Here.", negatives=kept))
    assert found[:2] == list(kept)
    assert len(found) == 3
    many = tuple(f"Number {i}" for i in range(5))
    assert mined(lm, row("Where is it?", "Here.", negatives=many)) == [list(many)]


def test_without_a_corpus_the_passages_of_other_rows_are_taken(lm):
    rows = row("One?", "First.", negatives=("No.",)), row("Two?", "Second.")
    found = mined(lm, *rows, corpus=None)
    assert found == [["No.", "Second."], found[1]]
    assert sorted(found[1]) == ["First.", "No."]


def test_records_are_read_back_as_the_same_rows():
    rows = [
        EmbeddingExample(
            InstructedText("q", "Find"),
            (InstructedText("p", "Read"), InstructedText("p2")),
            (InstructedText("n"),),
        ),
        EmbeddingExample(InstructedText("q"), (InstructedText("p"),)),
    ]
    for each in rows:
        assert parse(record(each), "embedding", place="a:1", source=SourceConfig("a")) == each


def test_no_rows_are_refused(lm):
    with pytest.raises(InputError, match="no rows"):
        mined(lm)
