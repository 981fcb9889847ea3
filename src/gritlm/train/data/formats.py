"""Records as users have them -> rows: one function a form, conversations in ``chats.py``.

The form is told by the keys; where several fit, the first one of the list is taken. Other keys
(ids, scores of negatives) are not read. A key that is null counts as absent: Parquet fills gaps so.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from reprlib import repr as short
from textwrap import shorten
from typing import Any

from gritlm.errors import InputError
from gritlm.lm.inputs import documents
from gritlm.train.config import SourceConfig
from gritlm.train.data import conversations
from gritlm.train.data.examples import (
    EmbeddingExample,
    InstructedText,
    Kind,
    RagExample,
    Row,
    ScoredExample,
)
from gritlm.train.data.fields import RecordFields

_KNOWN: dict[Kind, str] = {
    "embedding": "{query, pos, neg}, {anchor, positive, negative}, {sentence1, sentence2, score}",
    "generative": conversations.KNOWN,
    "rag": "{query or question, documents, answer or answers}",
}


def parse(record: Mapping[str, Any], kind: Kind, *, place: str, source: SourceConfig) -> Row:
    """One record as a row.

    Embedding: a text may be ``[instruction, text]``; ``neg`` may be missing or empty. A scored pair
    has two texts and a number.
    Generative: turns behind the last answer are left out, and so are empty system messages. All
    answers are trained, also those in a ``prompt`` of several messages.
    RAG: the document that answers comes first; of several answers the first one is trained.

    Args:
        place: ``file:line``, for messages.
        source: its instructions stand in where the record has none.

    Raises:
        InputError: naming the place, what came and what was expected.
    """
    given = RecordFields({k: v for k, v in record.items() if v is not None}, place, source)
    for keys, make in _FORMS[kind]:
        if given.values.keys() >= set(keys):
            return make(given)
    given_keys = (f"{short(k)}{' (null)' if v is None else ''}" for k, v in record.items())
    came = shorten(", ".join(given_keys), 300, placeholder=" ...")
    raise given.error(f"the row has {came or 'no key'}; known {kind} rows are {_KNOWN[kind]}")


def normalised(text: str) -> str:
    """What makes two texts the same: composed characters, and one space for any white space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _flag_embedding(given: RecordFields) -> EmbeddingExample:
    """FlagEmbedding's ``prompt`` is the instruction of this query."""
    values = given.values
    instruction = given.string(values.get("prompt", ""), "prompt") or given.source.instruction
    query = _embedded(given, values["query"], "query", instruction)
    return _pairs(given, query, {"pos": values["pos"]}, {"neg": values.get("neg", [])})


def _triplet(given: RecordFields) -> EmbeddingExample:
    """sentence-transformers: ``negative``, or ``negative_1``, ``negative_2``, ..."""
    values = given.values
    negatives = {k: v for k, v in values.items() if k == "negative" or k.startswith("negative_")}
    query = _embedded(given, values["anchor"], "anchor", given.source.instruction)
    return _pairs(given, query, {"positive": values["positive"]}, negatives)


def _scored(first: str, second: str, score: str) -> Callable[[RecordFields], Row]:
    def make(given: RecordFields) -> ScoredExample:
        values = given.values
        source = given.source
        return ScoredExample(
            _embedded(given, values[first], first, source.instruction),
            _embedded(given, values[second], second, source.passage_instruction),
            given.number(values[score], score),
        )

    return make


def _pairs(
    given: RecordFields, query: InstructedText, positive: dict[str, Any], negative: dict[str, Any]
) -> EmbeddingExample:
    positives = _passages(given, positive)
    negatives = _passages(given, negative)
    if not positives:
        raise given.error(f"{next(iter(positive))!r} is empty; expected at least one passage")
    right = {normalised(text.text) for text in positives.values()}
    for what, text in negatives.items():
        if normalised(text.text) in right:
            raise given.error(f"{what} is equal to a positive; take it out of the negatives")
    return EmbeddingExample(query, tuple(positives.values()), tuple(negatives.values()))


def _passages(given: RecordFields, columns: dict[str, Any]) -> dict[str, InstructedText]:
    """``{"neg[0]": passage, ...}``; a text alone is one passage."""
    found: dict[str, InstructedText] = {}
    for key, value in columns.items():
        if not isinstance(value, str | list | tuple):
            raise given.wrong(value, key, "a list of passages")
        for index, passage in enumerate([value] if isinstance(value, str) else value):
            what = key if isinstance(value, str) else f"{key}[{index}]"
            found[what] = _embedded(given, passage, what, given.source.passage_instruction)
    return found


def _embedded(given: RecordFields, value: Any, what: str, instruction: str) -> InstructedText:
    own, text = value if isinstance(value, list | tuple) and len(value) == 2 else ("", value)
    if not isinstance(text, str):
        raise given.wrong(value, what, "a text or [instruction, text]")
    own = given.string(own, f"the instruction of {what}")
    return InstructedText(given.text(text, what), own if own.strip() else instruction)


def _rag(given: RecordFields) -> RagExample:
    values = given.values
    asked = "query" if "query" in values else "question"
    question = given.text(values[asked], asked)
    found = given.items(values["documents"], "documents", of="texts or {'title', 'text'}")
    try:
        found = list(documents(found))
    except InputError as error:
        raise given.error(str(error)) from None
    texts = (given.text(text, f"documents[{index}]") for index, text in enumerate(found))
    return RagExample(question, tuple(texts), _answer(given))


def _answer(given: RecordFields) -> str:
    if "answer" in given.values:
        return given.text(given.values["answer"], "answer")
    answers = given.values["answers"]
    if isinstance(answers, str):
        return given.text(answers, "answers")
    return given.text(given.items(answers, "answers", of="texts")[0], "answers[0]")


_Form = tuple[tuple[str, ...], Callable[[RecordFields], Row]]

_FORMS: dict[Kind, Sequence[_Form]] = {
    "embedding": [
        (("query", "pos"), _flag_embedding),
        (("anchor", "positive"), _triplet),
        *(
            ((f"{text}1", f"{text}2", score), _scored(f"{text}1", f"{text}2", score))
            for text in ("sentence", "text")
            for score in ("score", "label")
        ),
    ],
    "generative": conversations.FORMS,
    "rag": [
        ((question, "documents", answer), _rag)
        for question in ("query", "question")
        for answer in ("answer", "answers")
    ],
}
