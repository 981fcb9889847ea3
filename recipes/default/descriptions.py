"""RAG rows answered by whole sentences of the passage: descriptions, reasons, ways, commands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pairs
from questions import DISTRACTORS, NOWHERE, UNANSWERED
from rows import Row, rag
from texts import Overlap, first_words, number, one_line

WORDS = 130  # of a document
MOST_ANSWERED = 50  # words of an answer
SENTENCES = 2  # of an answer
SHARE = 3  # one of so many medical questions and tasks is used

_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"(])")
# Questions about facts, which want a short answer.
_FACT = re.compile(
    r"^(?:who|whom|whose|when|where|which|how (?:many|much|long|old|far|often|large|big|tall)|"
    r"what (?:year|date|percent|number|is the name|was the name|name|country|city|type|kind))\b|"
    r"\b(?:who|which|how many|what year)\b",
    re.IGNORECASE,
)
_DESCRIBED = re.compile(
    r"^(?:why|how (?:do|does|did|can|is|are|was|were))\b|"
    r"^what .*\b(?:purpose|reason|causes?|caused|happens?|happened|effects?|difference|"
    r"look like|mean)\b",
    re.IGNORECASE,
)


def medquad(folder: Path) -> Iterator[Row]:
    """Yield medical questions; the answer is the beginning of the text that answers them.

    In half of the rows other sentences stand before it, from the answer of another question.
    """
    found = [row for row in pairs.medquad(folder) if number(row.content["query"]) % SHARE == 0]
    kept = []
    for row in found:
        question, (text, *_) = row.content["query"], row.content["pos"]
        answer = " ".join(sentences(text)[:SENTENCES])
        if not _complete(answer) or len(answer.split()) > MOST_ANSWERED:
            continue
        before = ""
        if row.content["neg"] and number(question) % 2:
            before = " ".join(sentences(row.content["neg"][0])[:SENTENCES])
        if not before or _complete(before):
            kept.append((question, first_words(f"{before} {text}".strip(), WORDS), answer, row))
    yield from _among_themselves(kept)


def dolly(folder: Path) -> Iterator[Row]:
    """Yield questions on a text that people answered in a sentence or two."""
    path = folder / "scripts" / "data_prep" / "dolly_hhrlhf_train_small.jsonl"
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        instruction = row["prompt"].partition("### Instruction:\n")[2]
        question, _, text = instruction.rpartition("### Response:")[0].strip().partition("\n")
        question, text, answer = one_line(question), one_line(text), one_line(row["response"])
        fits = 30 <= len(text.split()) <= 220 and 1 <= len(answer.split()) <= MOST_ANSWERED
        if fits and question.endswith("?") and "\n" not in row["response"].strip():
            kept.append((question, text, answer, None))
    yield from _among_themselves(kept)


def squad(folder: Path) -> Iterator[Row]:
    """Yield questions that ask why or how; the answer is a whole sentence of the paragraph."""
    kept = []
    for row in pairs.paragraphs(folder):
        question, text, sentence = row.texts
        described = _DESCRIBED.search(question) and not _FACT.search(question)
        if described and len(sentence.split()) <= MOST_ANSWERED:
            kept.append((question, text, sentence, row))
    yield from _among_themselves(kept)


def commands(folder: Path) -> Iterator[Row]:
    """Yield tasks on the examples of a command; the answer is the command line of the task."""
    pages: dict[str, list[Row]] = {}
    for row in pairs.commands(folder):
        command = row.content["pos"][0]
        pages.setdefault(command.split()[0], []).append(row)
    kept = []
    for name, page in pages.items():
        if number(name) % SHARE or len(page) < 3:
            continue
        tasks = {row.content["query"]: row.content["pos"][0] for row in page[:6]}
        text = " ".join(f"{task}: {command}" for task, command in tasks.items())
        row = min(page[:6], key=lambda each: number(each.content["query"]))
        task = row.content["query"]
        question = f"How do I {task[:1].lower()}{task[1:]}?"
        if len(text.split()) <= WORDS:
            kept.append((question, text, tasks[task], row))
    yield from _among_themselves(kept)


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; the last one may be cut off."""
    return _END.split(one_line(text))


def _complete(text: str) -> bool:
    return text.endswith((".", "!", "?")) and len(text.split()) >= 5


def _among_themselves(found: Sequence[tuple[str, str, str, Row | None]]) -> Iterator[Row]:
    """Yield rows of (question, text, answer, source row), with other texts as distractors."""
    texts = sorted({text for _, text, _, _ in found})
    overlap = Overlap(texts)
    for question, text, answer, source in found:
        near = [texts[i] for i in overlap.nearest(question, count=20)]
        wrong = [other for other in near if other != text and answer not in other][:DISTRACTORS]
        documents = [{"title": "", "text": each} for each in (text, *wrong)]
        whole = () if source is None else source.texts
        group = text if source is None else source.group
        if number(question) % UNANSWERED == 0 and wrong:
            yield rag(question, documents[1:], NOWHERE, whole=whole, group=group)
        else:
            yield rag(question, documents, answer, whole=whole, group=group)
