"""Sentences of passages, and passages that have none: tables, code, lists of numbers."""

from __future__ import annotations

import re

from gritlm.rag.quote import sentence_spans

FEWEST_WORDS = 5  # of a sentence that can answer a question
MOST_WORDS = 120  # clauses of contracts are long
_LETTERS = 0.6  # least share of letters and spaces in a sentence
_CLOSING = "\"'”’)]"  # behind the end of a sentence
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")  # two make a word
_PARAGRAPH = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*+#|]|\d+[.)])\s)")
_MARKUP = re.compile(r"^\s*(?:[#>*+-]|\d+[.)])+\s+")
_LEANS = re.compile(
    r"^(?:it|its|they|their|them|this|that|these|those|he|his|she|her|such|both|however|also|"
    r"therefore|thus|if so|in this|in these|in that)\b",
    re.IGNORECASE,
)


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, each on one line, without marks of lists and headings.

    Headings, rows of tables and lines of code are among them; see :func:`is_statement`.
    """
    found: list[str] = []
    for paragraph in _PARAGRAPH.split(text):
        line = " ".join(_MARKUP.sub("", paragraph).split())
        found += [_MARKUP.sub("", line[start:end]) for start, end in sentence_spans(line)]
    return [each for each in found if each]


def is_statement(sentence: str) -> bool:
    """Return whether a sentence states something: whole, of usual length, mostly letters."""
    words = len(sentence.split()) + len(_UNSPACED.findall(sentence)) // 2
    letters = sum(each.isalpha() or each.isspace() for each in sentence)
    return (
        FEWEST_WORDS <= words <= MOST_WORDS
        and sentence.rstrip(_CLOSING).endswith((".", "!", ";", "。", "！"))
        and "|" not in sentence
        and letters >= _LETTERS * len(sentence)
    )


def statements(text: str) -> list[str]:
    """Return the distinct statements of a text, in order."""
    return list(dict.fromkeys(each for each in sentences(text) if is_statement(each)))


def in_context(sentence: str, text: str) -> str:
    """Return a sentence, after the one before it if it begins with a pronoun or the like."""
    if not _LEANS.match(sentence):
        return sentence
    every = sentences(text)
    at = every.index(sentence) if sentence in every else 0
    return f"{every[at - 1]} {sentence}" if at else sentence


def without(text: str, sentence: str) -> str | None:
    """Return a text without one of its sentences; None if fewer than two statements are left."""
    rest = [each for each in sentences(text) if each != sentence]
    if sum(map(is_statement, rest)) < 2:
        return None
    return " ".join(rest)
