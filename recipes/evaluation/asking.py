"""Rows of retrieval, reranking and RAG tasks from questions and passages."""

from __future__ import annotations

import csv
import io
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import passages
from bm25 import Ranking
from contents import Content, measured, search
from passages import Asked, Passage
from raw import holds, one_line

DISTRACTORS = 4
KEYS = 20
KEY_ROWS = 200  # records of a row of key-value retrieval, and its rows


def retrieval(asked: Iterable[Asked], corpus: Iterable[Passage] = ()) -> Content:
    """Return a retrieval task; its corpus is ``corpus`` plus the passages with answers."""
    queries: dict[str, list[str]] = defaultdict(list)
    pool = list(corpus)
    for entry in asked:
        if entry.right:
            queries[entry.question] += [text for _, text in entry.right]
            pool += entry.right
    return search(queries, pool)


def reranking(asked: Iterable[Asked]) -> Content:
    return measured(
        {
            "query": entry.question,
            "positive": [_joined(passage) for passage in entry.right],
            "negative": [_joined(passage) for passage in entry.wrong],
        }
        for entry in asked
    )


def answering(asked: Iterable[Asked]) -> Content:
    return measured(
        {
            "question": entry.question,
            "answers": list(dict.fromkeys(entry.answers)),
            "documents": [{"title": title, "text": text} for title, text in entry.passages],
            "gold": entry.gold,
        }
        for entry in asked
    )


def among_others(asked: Sequence[Asked], pool: Iterable[Passage]) -> list[Asked]:
    """Return the questions with the most similar passages of the pool as distractors.

    No distractor holds an answer, is of the same page as the right passage, or its copy.
    """
    others = list(dict.fromkeys(pool))
    ranking = Ranking([_joined(passage) for passage in others])
    made = []
    for entry in asked:
        (title, text), found = entry.right[0], []
        for place in ranking.nearest(entry.question):
            other = others[place]
            same = other[1] == text or (title and other[0] == title)
            if not same and not holds(_joined(other), entry.answers):
                found.append(other)
            if len(found) == DISTRACTORS:
                break
        made.append(Asked(entry.question, entry.answers, (*entry.right, *found)))
    return made


def measured_questions(folder: Path) -> Content:
    """Return the evaluation rows of Natural Questions, with the passages of all rows."""
    entries = passages.natural_questions(folder)
    corpus = [passage for entry in entries for passage in entry.right]
    return retrieval(entries[passages.TRAINED :], corpus)


def questions_among_passages(folder: Path) -> Content:
    entries = passages.natural_questions(folder)
    corpus = [passage for entry in entries for passage in entry.right]
    return answering(among_others(entries[passages.TRAINED :], corpus))


def paragraphs_among_others(folder: Path) -> Content:
    """Return English XQuAD with distractors from other articles."""
    entries = passages.xquad(folder, language="en")
    return answering(among_others(entries, [passage for e in entries for passage in e.right]))


def hardest_first(asked: Iterable[Asked]) -> list[Asked]:
    """Sort distractors by word overlap with the question, so that a sample has the hardest."""
    made = []
    for entry in asked:
        ranking = Ranking([_joined(passage) for passage in entry.wrong])
        wrong = [entry.wrong[place] for place in ranking.nearest(entry.question)]
        made.append(Asked(entry.question, entry.answers, (*entry.right, *wrong), entry.gold))
    return made


def exact_recall(folder: Path) -> Content:
    return answering(passages.key_values(folder, keys=KEYS)[:KEY_ROWS])


def live_questions(folder: Path) -> Content:
    """Return LiveQA-Med: paraphrased questions with graded answers.

    The set has no texts of the real questions, only their numbers. In its place stands the question
    that belongs to the first answer graded excellent (4); the other answers graded 3 or 4 are
    right, those graded 1 or 2 are not.
    """
    texts, grades = _graded(folder)
    made = []
    for judged in grades.values():
        best = next((name for name, grade in judged if grade == 4), None)
        if best is None:
            continue
        rest = [(texts[name][1], grade) for name, grade in judged if name != best]
        right = list(dict.fromkeys(text for text, grade in rest if grade >= 3))
        wrong = list(dict.fromkeys(t for t, grade in rest if grade < 3 and t not in right))
        if right and wrong:
            plain = [("", text) for text in (*right, *wrong)]
            made.append(Asked(texts[best][0], (), tuple(plain), len(right)))
    return reranking(made)


def _graded(folder: Path) -> tuple[dict[str, tuple[str, str]], dict[str, list[tuple[str, int]]]]:
    """Return (question, answer) by name, and (name, grade) by question."""
    with tarfile.open(folder / "medquad.tar.gz", mode="r|gz") as archive:  # read once
        inner = next(member for member in archive if member.name.endswith("Answers.zip"))
        content = archive.extractfile(inner)
        assert content is not None, "a zip is no folder"
        packed = zipfile.ZipFile(io.BytesIO(content.read()))
    files = {name: packed.read(name) for name in packed.namelist() if "__MACOSX" not in name}
    table = next(content for name, content in files.items() if name.endswith(".csv"))
    judged = next(content for name, content in files.items() if name.endswith(".txt"))
    texts = {}
    for row in csv.DictReader(io.StringIO(table.decode("utf-8-sig"))):
        question, _, rest = row["Answer"].partition("\n")
        question = question.removeprefix("Question: ").partition("(Also called")[0]
        question = question.replace("What is (are)", "What is").replace(" ?", "?")
        texts[row["AnswerID"]] = (one_line(question), one_line(rest.partition("Answer:")[2]))
    grades: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for line in judged.decode("utf-8").splitlines():
        number, grade, name = line.split()
        grades[number].append((name, int(grade[0])))
    return texts, grades


def _joined(passage: Passage) -> str:
    title, text = passage
    return f"{title} {text}" if title else text
