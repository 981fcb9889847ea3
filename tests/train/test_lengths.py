"""How long rows are in tokens, and what training reads of them."""

from __future__ import annotations

import pytest

from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.train.config import DataConfig
from gritlm.train.data.examples import ChatExample, EmbeddingExample, InstructedText, RagExample
from gritlm.train.data.lengths import LengthCounter
from tests import tiny

CHAT = ChatExample(
    ({"role": "user", "content": "Who reads?"}, {"role": "assistant", "content": "A model."})
)
RAG = RagExample("Who reads?", ("A model reads.", "Cats sleep.", "Dogs walk."), "It.")


@pytest.fixture(scope="module")
def tokens() -> SegmentTokenizer:
    return SegmentTokenizer(tiny.tokenizer())


def ruler(tokens: SegmentTokenizer, **lengths: int) -> LengthCounter:
    return LengthCounter(tokens, ModelSettings(template="gritlm"), DataConfig(**lengths))


def test_lengths_are_those_of_uncut_prompts(tokens):
    texts = [f"A ball{' and a ball' * number}." for number in range(20)]
    measured = ruler(tokens, query_max_len=30)
    for text in texts:
        measured.prompts(EmbeddingExample(InstructedText(text), (InstructedText("Cats."),)))
    query, passage = measured.lengths()
    sizes = sorted(len(tokens.tokenizer(f"<|embed|>\n{text}")["input_ids"]) for text in texts)
    assert (query.what, query.limit, query.count) == ("query", 30, 20)
    assert (query.median, query.longest) == (int((sizes[9] + sizes[10]) / 2), sizes[-1])
    assert query.p95 == sizes[19 * 95 // 100 + 1]
    assert query.cut == sum(each > 30 for each in sizes)
    assert (passage.what, passage.cut) == ("passage", 0)


def test_what_is_longer_is_read_as_training_cuts_it(tokens):
    whole = ruler(tokens).prompts(RAG)["sample"]
    for row, name in ((CHAT, "conversation"), (RAG, "sample")):
        size = len(ruler(tokens).prompts(row)[name].ids)
        measured = ruler(tokens, generative_max_len=size - 1)
        assert len(measured.prompts(row)[name].ids) < size
        (length,) = measured.lengths()
        assert (length.what, length.longest, length.cut) == (name, size, 1)
    assert all(text in tokens.tokenizer.decode(whole.ids) for text in RAG.documents)


def test_a_row_without_anything_to_train_has_no_prompt(tokens):
    assert ruler(tokens, generative_max_len=5).prompts(CHAT) == {}
