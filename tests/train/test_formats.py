"""Every form of a pair and of a RAG row, and what a record that is none is told."""

from __future__ import annotations

import pytest

from gritlm.errors import InputError
from gritlm.train.config import SourceConfig
from gritlm.train.data.examples import EmbeddingExample, InstructedText, RagExample, ScoredExample
from gritlm.train.data.formats import normalised, parse

PLAIN = SourceConfig("data.jsonl")
TOLD = SourceConfig("data.jsonl", instruction="Find the answer", passage_instruction="A passage")


def row(record, kind, source=PLAIN):
    return parse(record, kind, place="data.jsonl:12", source=source)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"query": "q", "pos": ["p"]},
            EmbeddingExample(InstructedText("q"), (InstructedText("p"),)),
        ),
        (
            {"query": "q", "pos": ["p"], "neg": []},
            EmbeddingExample(InstructedText("q"), (InstructedText("p"),)),
        ),
        (
            {"query": "q", "pos": ["p"], "neg": None},
            EmbeddingExample(InstructedText("q"), (InstructedText("p"),)),
        ),
        (
            {"query": "q", "pos": "p", "neg": "n"},
            EmbeddingExample(InstructedText("q"), (InstructedText("p"),), (InstructedText("n"),)),
        ),
        (
            {"query": ["i", "q"], "pos": [["j", "p"], "o"], "neg": [["", "n"]], "id": 7},
            EmbeddingExample(
                InstructedText("q", "i"),
                (InstructedText("p", "j"), InstructedText("o")),
                (InstructedText("n"),),
            ),
        ),
        (
            {"query": "q", "pos": ["p"], "prompt": "i"},
            EmbeddingExample(InstructedText("q", "i"), (InstructedText("p"),)),
        ),
        (
            {"anchor": "q", "positive": "p"},
            EmbeddingExample(InstructedText("q"), (InstructedText("p"),)),
        ),
        (
            {"anchor": "q", "positive": "p", "negative": "n"},
            EmbeddingExample(InstructedText("q"), (InstructedText("p"),), (InstructedText("n"),)),
        ),
        (
            {"anchor": "q", "positive": "p", "negative_1": "n", "negative_2": "m"},
            EmbeddingExample(
                InstructedText("q"),
                (InstructedText("p"),),
                (InstructedText("n"), InstructedText("m")),
            ),
        ),
    ],
)
def test_pairs_are_read(record, expected):
    assert row(record, "embedding") == expected


def test_the_instructions_of_the_source_stand_in_where_a_record_has_none():
    record = {"query": ["", "q"], "pos": ["p", ["own", "o"]], "neg": ["n"]}
    assert row(record, "embedding", TOLD) == EmbeddingExample(
        InstructedText("q", "Find the answer"),
        (InstructedText("p", "A passage"), InstructedText("o", "own")),
        (InstructedText("n", "A passage"),),
    )
    assert row({"query": ["own", "q"], "pos": "p"}, "embedding", TOLD).query.instruction == "own"
    assert row({"anchor": "q", "positive": "p"}, "embedding", TOLD).query == InstructedText(
        "q", "Find the answer"
    )


@pytest.mark.parametrize("text", ["sentence", "text"])
@pytest.mark.parametrize("score", ["score", "label"])
def test_scored_pairs_are_read(text, score):
    record = {f"{text}1": "a", f"{text}2": ["own", "b"], score: 3, "genre": "news"}
    assert row(record, "embedding") == ScoredExample(
        InstructedText("a"), InstructedText("b", "own"), 3.0
    )
    assert row(record, "embedding", TOLD).first == InstructedText("a", "Find the answer")
    other = record | {f"{text}2": "b", score: -0.25}
    expected = ScoredExample(
        InstructedText("a", "Find the answer"), InstructedText("b", "A passage"), -0.25
    )
    assert row(other, "embedding", TOLD) == expected


def test_a_pair_with_positives_stays_one_whatever_its_score():
    assert isinstance(row({"query": "q", "pos": ["p"], "score": 1}, "embedding"), EmbeddingExample)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": "high"}, r"score is 'high' \(str\); expected a number"),
        ({"score": True}, r"score is True \(bool\); expected a number"),
        ({"score": [1]}, r"score is \[1\] \(list\); expected a number"),
        ({"score": float("nan")}, "score is nan; expected a number that is finite"),
        ({"score": float("inf")}, "score is inf; expected a number that is finite"),
        ({"score": 10**400}, r"score is 1000\S+ \(int\); expected a number below"),
        (
            {"score": None},
            r"the row has 'sentence1', 'sentence2', 'score' \(null\); known .*score}",
        ),
        ({"sentence2": ""}, "sentence2 is empty"),
        ({"sentence1": 7}, r"sentence1 is 7 \(int\); expected a text or \[instruction, text"),
    ],
)
def test_a_scored_pair_that_is_none_is_refused(change, message):
    record = {"sentence1": "a", "sentence2": "b", "score": 1.0}
    with pytest.raises(InputError, match=f"^data.jsonl:12: {message}"):
        row(record | change, "embedding")


@pytest.mark.parametrize("asked", ["query", "question"])
def test_rag_rows_are_read(asked):
    documents = [{"title": "T", "text": "gold"}, "other", {"title": None, "text": "third"}]
    expected = RagExample("q", ("T gold", "other", "third"), "a")
    assert row({asked: "q", "documents": documents, "answer": "a"}, "rag") == expected
    assert row({asked: "q", "documents": documents, "answers": ["a", "b"]}, "rag") == expected
    assert row({asked: "q", "documents": documents, "answers": "a"}, "rag") == expected


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"query": " ", "pos": ["p"]}, "query is empty; give it a text, or leave the row out"),
        ({"query": ["i", ""], "pos": ["p"]}, "query is empty"),
        ({"query": "q", "pos": ["p", ""]}, r"pos\[1\] is empty"),
        ({"query": "q", "pos": ["p"], "neg": [""]}, r"neg\[0\] is empty"),
        ({"query": "q", "pos": []}, "'pos' is empty; expected at least one passage"),
        (
            {"query": "q", "pos": ["p  1"], "neg": ["n", " p 1"]},
            r"neg\[1\] is equal to a positive; take it out of the negatives",
        ),
        ({"anchor": "q", "positive": "p", "negative": "p"}, "negative is equal to a positive"),
        (
            {"query": "q", "positive": "p"},
            "the row has 'query', 'positive'; known embedding rows are {query, pos, neg}, {anchor",
        ),
        ({"query": "q", "pos": None}, r"the row has 'query', 'pos' \(null\); known"),
        ({}, "the row has no key"),
        ({"query": "q", "pos": ["\ud800"]}, r"pos\[0\] has a lone surrogate at character 0"),
        ({"query": ["\ud800", "q"], "pos": ["p"]}, "the instruction of query has a lone surrogate"),
        ({"query": 3, "pos": ["p"]}, r"query is 3 \(int\); expected a text or \[instruction, text"),
        ({"query": ["q"], "pos": ["p"]}, r"query is \['q'\] \(list\); expected a text or"),
        ({"query": [1, "q"], "pos": ["p"]}, "the instruction of query is 1"),
        ({"query": "q", "pos": {"a": 1}}, r"pos is .* \(dict\); expected a list of passages"),
        ({"query": "q", "pos": [["a", "b", "c"]]}, r"pos\[0\] is \['a', 'b', 'c'\]"),
        ({"query": "q", "pos": [None]}, r"pos\[0\] is None"),
    ],
)
def test_a_pair_that_is_none_is_refused(record, message):
    with pytest.raises(InputError, match=f"^data.jsonl:12: {message}"):
        row(record, "embedding")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": ""}, "query is empty"),
        ({"query": ["i", "q"]}, "query is .* expected a text"),
        ({"query": " \n"}, "query is empty"),
        ({"documents": []}, "documents is empty; expected at least one of texts"),
        ({"documents": "one"}, "documents is 'one' .* expected a list"),
        (
            {"documents": None},
            r"the row has 'query', 'documents' \(null\), 'answer'; known rag rows",
        ),
        ({"documents": ["d", ""]}, r"documents\[1\] is empty"),
        ({"documents": [" \t"]}, r"documents\[0\] is empty"),
        ({"documents": [None]}, r"documents\[0\] is None"),
        ({"documents": [{"title": "", "text": " "}]}, r"documents\[0\] is empty"),
        ({"documents": ["d", 3]}, r"documents\[1\] is 3"),
        ({"documents": [{"title": "T"}]}, "document 0 has no 'text' that is a text; it has title"),
        ({"documents": [{"title": 3, "text": "t"}]}, "document 0 has the title 3"),
        ({"answer": ""}, "answer is empty"),
        ({"answer": None, "answers": []}, "answers is empty"),
        ({"answer": None, "answers": [4]}, r"answers\[0\] is 4"),
        ({"answer": None}, r"the row has 'query', 'documents', 'answer' \(null\); known rag rows"),
    ],
)
def test_a_rag_row_that_is_none_is_refused(change, message):
    record = {"query": "q", "documents": ["d"], "answer": "a"}
    assert row(record, "rag") == RagExample("q", ("d",), "a")
    with pytest.raises(InputError, match=f"^data.jsonl:12: {message}"):
        row(record | change, "rag")


def test_texts_are_the_same_whatever_their_spaces_and_composition():
    assert normalised(" cafe\u0301\n au\tlait ") == normalised("caf\u00e9 au lait")
    assert normalised("Polish") != normalised("polish")
