"""Prompts in pieces that a person can read."""

from __future__ import annotations

import pytest

from gritlm.lm.tokens import Prompt, SegmentTokenizer
from gritlm.train.data.inspect import view
from tests import tiny


@pytest.fixture(scope="module")
def tokens() -> SegmentTokenizer:
    return SegmentTokenizer(tiny.tokenizer())


def test_pieces_joined_are_the_whole_prompt(tokens):
    prompt = Prompt(list(range(5, 25)), trained=((0, 3), (3, 7), (10, 20)))
    made = view("any", prompt, tokens)
    assert [piece.mark for piece in made.pieces] == ["trained", "trained", "other", "trained"]
    assert "".join(piece.text for piece in made.pieces) == tokens.tokenizer.decode(prompt.ids)


def test_a_prompt_without_marks_is_one_piece(tokens):
    assert [piece.mark for piece in view("any", Prompt([5, 6]), tokens).pieces] == ["other"]
