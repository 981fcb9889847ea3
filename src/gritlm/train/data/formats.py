"""Parsers of training records, one function for each form; see also ``conversations.py``.

:func:`parse` turns a row of a data file into an example; datasets and validation call it. The keys
of a record identify its form; the first match is used. Other keys (ids, scores of negatives) are
ignored. A null counts as an absent key, since Parquet fills gaps with nulls.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from reprlib import repr as short
from textwrap import shorten
from typing import Any

from gritlm.errors import InputError
from gritlm.lm.media.inputs import InputText, Parts
from gritlm.lm.tokens import document_texts
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
from gritlm.train.data.media.row_media import is_media, parts_of, single, with_images

_KNOWN: dict[Kind, str] = {
    "embedding": "{query, pos, neg}, {anchor, positive, negative}, {sentence1, sentence2, score}, "
    "{qry, qry_image_path, pos_text, pos_image_path, neg_text, neg_image_path}",
    "generative": conversations.KNOWN,
    "rag": "{query or question, documents, answer or answers}",
}


def parse(record: Mapping[str, Any], kind: Kind, *, place: str, source: SourceConfig) -> Row:
    """Return the training example of a record.

    Embedding: a text may be ``[instruction, text]``; ``neg`` may be missing or empty. A scored pair
    has two texts and a number.
    Generative: turns after the last answer and empty system messages are dropped. All answers are
    in the loss, also those in a ``prompt`` of several messages.
    RAG: the first document has the answer; the first of several answers is in the loss.

    Args:
        record: keys and values of a row.
        kind: stream of the row.
        place: ``file:line``, for messages.
        source: source of the record, with its default instructions.

    Raises:
        InputError: the record has no known form; the message has place, value and expected form.
    """
    fields = RecordFields({k: v for k, v in record.items() if v is not None}, place, source)
    for keys, parse_form in _FORMS[kind]:
        if fields.values.keys() >= set(keys):
            return parse_form(fields)
    key_texts = (f"{short(k)}{' (null)' if v is None else ''}" for k, v in record.items())
    shown = shorten(", ".join(key_texts), 300, placeholder=" ...")
    raise fields.error(f"the row has {shown or 'no key'}; known {kind} rows are {_KNOWN[kind]}")


def normalised(text: str) -> str:
    """Return a text in composed characters (NFC), with single spaces for all white space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _flag_embedding(fields: RecordFields) -> EmbeddingExample:
    """Parse a record of FlagEmbedding; its ``prompt`` is the instruction of the query."""
    values = fields.values
    instruction = fields.string(values.get("prompt", ""), "prompt") or fields.source.instruction
    query = _embedded(fields, values["query"], "query", instruction)
    return _pairs(fields, query, {"pos": values["pos"]}, {"neg": values.get("neg", [])})


def _triplet(fields: RecordFields) -> EmbeddingExample:
    """Parse a triplet of sentence-transformers: ``negative``, or ``negative_1``, ..."""
    values = fields.values
    negatives = {k: v for k, v in values.items() if k == "negative" or k.startswith("negative_")}
    query = _embedded(fields, values["anchor"], "anchor", fields.source.instruction)
    return _pairs(fields, query, {"positive": values["positive"]}, negatives)


def _vlm2vec(fields: RecordFields) -> EmbeddingExample:
    """Parse a record of VLM2Vec: texts with placeholders of images, and columns of paths."""
    source = fields.source
    queries = _image_texts(fields, "qry", source.instruction)
    if len(queries) != 1:
        raise fields.error(f"the row has {len(queries)} queries; expected one")
    positives = _image_texts(fields, "pos", source.passage_instruction)
    positives += _image_texts(fields, "tgt", source.passage_instruction)
    negatives = _image_texts(fields, "neg", source.passage_instruction)
    return _example(
        fields,
        queries[0],
        {f"pos[{index}]": each for index, each in enumerate(positives)},
        {f"neg[{index}]": each for index, each in enumerate(negatives)},
    )


def _image_texts(fields: RecordFields, side: str, instruction: str) -> list[InstructedText]:
    """Return the inputs of a side: one, or one for each entry of its lists; empty ones are left
    out."""
    texts = _column(fields, (side, f"{side}_text"))
    images = _column(fields, (f"{side}_image_path", f"{side}_img_path", f"{side}_image"))
    count = max(len(texts), len(images))
    if {len(texts), len(images)} - {0, count}:
        raise fields.error(
            f"{side} has {len(texts)} texts and {len(images)} images; expected as many"
        )
    found = []
    for index in range(count):
        name = f"{side}[{index}]"
        text = fields.string(texts[index] or "", name) if texts else ""
        image = images[index] if images else None
        pictures = [single(fields, "image", image, name)] if image else []
        if parts := with_images(fields, text, pictures, name):
            found.append(_instructed(parts, instruction))
    return found


def _column(fields: RecordFields, names: Sequence[str]) -> list[Any]:
    """Return the values of the first key that a record has; a single value is a list of one."""
    value: Any = next((fields.values[name] for name in names if name in fields.values), [])
    return list(value) if isinstance(value, list | tuple) else [value]


def _scored(first: str, second: str, score: str) -> Callable[[RecordFields], Row]:
    """Return a parser of scored pairs with the given keys for both texts and the score."""

    def parse_form(fields: RecordFields) -> ScoredExample:
        values = fields.values
        source = fields.source
        return ScoredExample(
            _embedded(fields, values[first], first, source.instruction),
            _embedded(fields, values[second], second, source.passage_instruction),
            fields.number(values[score], score),
        )

    return parse_form


def _pairs(
    fields: RecordFields, query: InstructedText, positive: dict[str, Any], negative: dict[str, Any]
) -> EmbeddingExample:
    positives = _passages(fields, positive)
    if not positives:
        raise fields.error(f"{next(iter(positive))!r} is empty; expected at least one passage")
    return _example(fields, query, positives, _passages(fields, negative))


def _example(
    fields: RecordFields,
    query: InstructedText,
    positives: dict[str, InstructedText],
    negatives: dict[str, InstructedText],
) -> EmbeddingExample:
    if not positives:
        raise fields.error("the row has no positive; expected at least one")
    right = {normalised(text.identity) for text in positives.values()}
    for name, text in negatives.items():
        if normalised(text.identity) in right:
            raise fields.error(f"{name} is equal to a positive; take it out of the negatives")
    return EmbeddingExample(query, tuple(positives.values()), tuple(negatives.values()))


def _passages(fields: RecordFields, columns: dict[str, Any]) -> dict[str, InstructedText]:
    """Return passages by name (``neg[0]``); a single text is one passage."""
    found: dict[str, InstructedText] = {}
    for key, value in columns.items():
        alone = isinstance(value, str) or is_media(value)
        if not alone and not isinstance(value, list | tuple):
            raise fields.wrong(value, key, "a list of passages")
        for index, passage in enumerate([value] if alone else value):
            name = key if alone else f"{key}[{index}]"
            found[name] = _embedded(fields, passage, name, fields.source.passage_instruction)
    return found


def _embedded(fields: RecordFields, value: Any, name: str, instruction: str) -> InstructedText:
    own, text = value if isinstance(value, list | tuple) and len(value) == 2 else ("", value)
    own = fields.string(own, f"the instruction of {name}")
    instruction = own if own.strip() else instruction
    if is_media(text):
        return _instructed(parts_of(fields, text, name), instruction)
    if not isinstance(text, str):
        raise fields.wrong(value, name, "a text or [instruction, text]")
    return InstructedText(fields.text(text, name), instruction)


def _instructed(parts: Parts, instruction: str) -> InstructedText:
    """Return an input of parts; one of texts only is a text."""
    text = "".join(part.text for part in parts if isinstance(part, InputText))
    plain = all(isinstance(part, InputText) for part in parts)
    return InstructedText(text, instruction, () if plain else parts)


def _rag(fields: RecordFields) -> RagExample:
    values = fields.values
    question_key = "query" if "query" in values else "question"
    question = fields.text(values[question_key], question_key)
    found = fields.items(values["documents"], "documents", of="texts or {'title', 'text'}")
    try:
        found = list(document_texts(found))
    except InputError as error:
        raise fields.error(str(error)) from None
    texts = (fields.text(text, f"documents[{index}]") for index, text in enumerate(found))
    return RagExample(question, tuple(texts), _answer(fields))


def _answer(fields: RecordFields) -> str:
    if "answer" in fields.values:
        return fields.text(fields.values["answer"], "answer")
    answers = fields.values["answers"]
    if isinstance(answers, str):
        return fields.text(answers, "answers")
    return fields.text(fields.items(answers, "answers", of="texts")[0], "answers[0]")


_Form = tuple[tuple[str, ...], Callable[[RecordFields], Row]]

_FORMS: dict[Kind, Sequence[_Form]] = {
    "embedding": [
        (("query", "pos"), _flag_embedding),
        (("anchor", "positive"), _triplet),
        (("qry",), _vlm2vec),
        (("qry_text",), _vlm2vec),
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
