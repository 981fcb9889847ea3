"""Twenty questions that a visitor may ask of the example passages, judged by their key facts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from gritlm import GritLM
from gritlm.rag import RagEngine

CORPUS = Path(__file__).parents[2] / "examples" / "corpus"
# Measured with the default model and default settings in bfloat16: 12 answers (11 in float32), 17
# together with the quote, and 20 passages. Rounding differs between processors, which may turn an
# answer or two.
RIGHT_ANSWERS = 9
RIGHT_QUOTES = 14
RIGHT_PASSAGES = 19


def has_facts(text: str, facts: Sequence[Sequence[str]]) -> bool:
    """Return whether a text has one spelling of each group, as whole words in any case."""
    return all(
        any(re.search(rf"(?<!\w){re.escape(each)}(?!\w)", text, re.IGNORECASE) for each in group)
        for group in facts
    )


def test_a_fact_is_whole_words_in_any_case_and_each_group_counts():
    assert has_facts("Two to four cups.", [["2-4", "two to four"], ["cups"]])
    assert not has_facts("Two to four cups.", [["two to four"], ["day"]])
    assert not has_facts("A normal body.", [["no"]])
    assert not has_facts("180 decibels", [["80 decibels"]])


def test_the_facts_are_in_the_passages():
    """A right answer can be read from its passage, in one of the accepted spellings."""
    texts = {row["id"]: row["text"] for row in rows("passages")}
    questions = rows("questions")
    assert len(questions) == 20
    missing = [
        q["id"]
        for q in questions
        if not has_facts(texts[q["passage"]], q["facts"]) or not q["facts"]
    ]
    assert not missing


def test_the_default_model_answers_with_the_key_facts(default_folder, tmp_path):
    answers, quotes, passages = 0, 0, 0
    model = GritLM()
    with RagEngine.open(tmp_path / "store", model) as engine:
        engine.add(CORPUS / "passages.jsonl")
        for question in rows("questions"):
            answer = engine.answer(question["text"])
            quote = engine.quote(question["text"], answer)
            assert quote is not None
            (document,) = (each.document_id for each in answer.sources if each.used)
            right = has_facts(answer.text, question["facts"])
            answers += right
            quotes += has_facts(f"{answer.text}\n{quote.text}", question["facts"])
            passages += document.partition("#")[2] == question["passage"]
            print("right" if right else "wrong", question["text"], repr(answer.text), document)
            print("  quote", repr(quote.text))
    print(f"{answers} right answers, {quotes} with the quote, {passages} right passages")
    assert answers >= RIGHT_ANSWERS
    assert quotes >= RIGHT_QUOTES
    assert passages >= RIGHT_PASSAGES


def rows(name: str) -> list[dict]:
    text = (CORPUS / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
