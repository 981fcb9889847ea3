"""RAG rows: question, documents (the first has the answer), answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import nq
import t0
import wiki
from rows import Row, rag
from texts import Overlap, around, number, one_line

WORDS = 130  # of a document
GROUPED = 80  # words of a document that decide whether its rows are held out
DISTRACTORS = 4
SHORT = 5  # words of a short answer
NOWHERE = "Not in the passages."
UNANSWERED = 12  # one of 12 rows loses the passage that answers it


def natural_questions(folder: Path) -> Iterator[Row]:
    for entry in nq.with_distractors(nq.training_rows(folder), count=DISTRACTORS + 1):
        documents = [_document(title, text, entry.answers[0]) for title, text in entry.passages]
        whole = [text for _, text in entry.passages]
        yield _row(entry.question, documents, entry.answers[0], whole)


def reading(folder: Path) -> Iterator[Row]:
    """Yield questions on a paragraph (T0), with paragraphs of other questions as distractors."""
    found = [(question, "", text, answer) for question, text, answer in t0.reading(folder)]
    yield from _among_themselves(found)


def plots(folder: Path) -> Iterator[Row]:
    """Yield questions on film plots that have a short answer."""
    found = [each for each in t0.plots(folder) if len(each[3].split()) <= SHORT]
    yield from _among_themselves(found)


def encyclopedia(folder: Path) -> Iterator[Row]:
    """Yield template questions on Wikipedia passages, with similar passages as distractors."""
    yield from _among_themselves(list(wiki.questions(folder)))


def dialogues(folder: Path) -> Iterator[Row]:
    """Yield the first question of each QuAC dialogue; with its topic it is self-contained."""
    path = folder / "scripts" / "eval" / "local_data" / "free_response" / "quac.jsonl"
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        context = json.loads(line)["context"]
        match = re.match(
            r"Title: (.+?)\n.*?\nSection: (.*?)\nContext: (.+?)(?: CANNOTANSWER)?\n\n"
            r"Question: (.+?)\nAnswer: (.+?)\n\n",
            context,
            flags=re.DOTALL,
        )
        if match and match[5] != "CANNOTANSWER":
            title, section, text, question, answer = (one_line(part) for part in match.groups())
            found.append((f"{title}, {section}: {question}", title, text, answer))
    yield from _among_themselves(found)


def _among_themselves(found: Sequence[tuple[str, str, str, str]]) -> Iterator[Row]:
    """Yield rows of (question, title, text, answer), with other texts as distractors."""
    passages = sorted({(title, text) for _, title, text, _ in found})
    overlap = Overlap([f"{title} {text}" for title, text in passages])
    for question, title, text, answer in found:
        near = (passages[i] for i in overlap.nearest(question, count=40))
        wrong = [p for p in near if p[1] != text and answer.lower() not in p[1].lower()]
        chosen = [(title, text), *wrong[: DISTRACTORS + 1]]
        documents = [_document(*passage, answer) for passage in chosen]
        yield _row(question, documents, answer, [passage for _, passage in chosen])


def _row(
    question: str, documents: Sequence[dict[str, str]], answer: str, whole: Sequence[str]
) -> Row:
    """Return the row; some lose the gold passage and get the answer that it is missing."""
    if number(question) % UNANSWERED == 0 and len(documents) > 1:
        group = around(whole[1], answer, GROUPED)
        return rag(question, documents[1:], NOWHERE, whole=whole, group=group)
    group = around(whole[0], answer, GROUPED)
    return rag(question, documents[: DISTRACTORS + 1], answer, whole=whole, group=group)


def _document(title: str, text: str, answer: str) -> dict[str, str]:
    return {"title": title, "text": around(text, answer, WORDS)}
