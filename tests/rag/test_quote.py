"""Quotes: the sentence of a passage that answers the question best."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.lm.hub.model_config import FusionSettings, ModelSettings
from gritlm.rag import Answer, RagEngine
from gritlm.rag.quote import sentence_spans
from tests import tiny

TEXT = "The ball is red. A library opens at nine, e.g. on Mondays.\n\nWhere is it? On the hill"
SENTENCES = [
    "The ball is red.",
    "A library opens at nine, e.g. on Mondays.",
    "Where is it?",
    "On the hill",
]
QUESTION = "When does the library open?"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RagEngine]:
    """An engine over two passages, with a calibrated tiny model in float32."""
    folder = tmp_path_factory.mktemp("quote")
    made = tiny.folder(folder / "model")
    ModelSettings(fusion=FusionSettings(cosine=2.0, margin=2.0)).save(made)
    model = GritLM(made, dtype="float32", device="cpu")
    with RagEngine.open(folder / "store", model) as opened:
        opened.add([{"id": "a", "title": "Places", "text": TEXT}, {"id": "b", "text": "No end"}])
        yield opened


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (TEXT, SENTENCES),
        ("", [""]),
        ("  one  ", ["one"]),
        ("One. Two", ["One.", "Two"]),
        ('He said "no." Then 3.5 m!', ['He said "no."', "Then 3.5 m!"]),
        ("它是红的。九点开门！在哪里", ["它是红的。", "九点开门！", "在哪里"]),
        ("A heading\n\nA text.\n", ["A heading", "A text."]),
        ("Dr. No came. He left.", ["Dr. No came.", "He left."]),
    ],
)
def test_a_text_is_cut_into_sentences(text, sentences):
    assert [text[start:end] for start, end in sentence_spans(text)] == sentences


def test_the_sentence_is_the_one_that_the_fusion_of_passages_would_choose(engine, tmp_path):
    """Each sentence as a passage of its own is chosen by the same score."""
    answer = engine.answer(QUESTION, top_k=1, filter="document_id = 'a'", max_new_tokens=2)
    quote = engine.quote(QUESTION, answer)
    assert quote is not None
    assert (quote.source, TEXT[quote.start : quote.end]) == (answer.sources[0].id, quote.text)
    rows = [{"id": str(n), "title": "Places", "text": t} for n, t in enumerate(SENTENCES)]
    with RagEngine.open(tmp_path / "sentences", engine.model, storage="float32") as alone:
        alone.add(rows)
        chosen = alone.answer(QUESTION, top_k=len(rows), max_new_tokens=1)
    (used,) = (source for source in chosen.sources if source.used)
    assert used.text == quote.text
    scores = {each["passage"]: each["score"] for each in chosen.trace.scores}
    assert quote.score == pytest.approx(scores[used.id], abs=1e-4)


def test_a_passage_of_one_sentence_is_quoted_whole_and_not_read(engine):
    answer = engine.answer(QUESTION, top_k=1, filter="document_id = 'b'", max_new_tokens=2)
    quote = engine.quote(QUESTION, answer)
    assert quote is not None
    assert (quote.text, quote.start, quote.end, quote.score) == ("No end", 0, 6, None)


def test_an_answer_without_a_passage_has_no_quote(engine):
    answer = engine.answer(QUESTION, top_k=1, max_new_tokens=2)
    assert engine.quote(QUESTION, Answer("", (), answer.trace)) is None


def test_an_empty_question_is_refused(engine):
    answer = engine.answer(QUESTION, top_k=1, max_new_tokens=2)
    with pytest.raises(InputError, match="the question is empty"):
        engine.quote(" ", answer)
