"""Contents of a task: rows by file name, and samples of them.

Rows that are measured are in an order that says nothing (``raw.mixed``), so that a limited
run and a sample take the beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raw import mixed

Row = Mapping[str, Any]
Content = dict[str, list[Row]]

TEST = "test.jsonl"
TRAIN = "train.jsonl"
CORPUS = "corpus.jsonl"
QUERIES = "queries.jsonl"
JUDGED = "qrels/test.tsv"

PER_LABEL = 8  # training rows of a label in a sample: what one fit of mteb takes
OTHERS = 1  # passages of a sample that answer none of its questions, for each that answers one
DOCUMENTS = 5  # of a question in a sample, those that answer it among them
NEGATIVES = 8  # of a query in a sample
GROUPS = ("subject", "subset")  # columns that link examples to evaluation rows


def measured(rows: Iterable[Row], train: Iterable[Row] = ()) -> Content:
    content: Content = {TEST: mixed(rows)}
    if train := list(train):
        content[TRAIN] = list(train)
    return content


def search(queries: Mapping[str, Sequence[str]], passages: Iterable[tuple[str, str]]) -> Content:
    """Return the files of a BEIR task.

    Args:
        queries: texts, each with the texts of the passages that answer it.
        passages: ``(title, text)``; equal texts are one passage, under its first title.
    """
    titles: dict[str, str] = {}
    for title, text in passages:
        titles.setdefault(text, title)
    places = {text: f"p{place}" for place, text in enumerate(titles)}
    asked: list[Row] = []
    judged: list[Row] = []
    for place, question in enumerate(mixed(queries)):
        asked.append({"_id": f"q{place}", "text": question})
        for text in dict.fromkeys(queries[question]):
            judged.append({"query-id": f"q{place}", "corpus-id": places[text], "score": 1})
    corpus: list[Row] = [
        {"_id": places[text], "title": title, "text": text} for text, title in titles.items()
    ]
    return {CORPUS: corpus, QUERIES: asked, JUDGED: judged}


def sample(content: Content, count: int) -> Content:
    """Return the first ``count`` evaluation rows with their passages and examples."""
    if QUERIES in content:
        return _searched(content, count)
    kept = [_shortened(row) for row in content[TEST][:count]]
    small: Content = {TEST: kept}
    for name, rows in content.items():
        if name == TRAIN:
            small[name] = _few_of_each(rows)
        elif name != TEST:
            small[name] = [row for row in rows if _belongs(row, kept)]
    return small


def counted(content: Content) -> dict[str, str]:
    """Return counts for descriptions: documents for each question, and subjects."""
    rows = content.get(TEST, [])
    sizes = {_documents(row) for row in rows}
    documents = f"{min(sizes)} to {max(sizes)}" if len(sizes) > 1 else "".join(map(str, sizes))
    subjects = {row["subject"] for row in rows if "subject" in row}
    return {"documents": documents, "subjects": str(len(subjects))}


def extent(content: Content) -> str:
    """Return the size in words: evaluation rows and searched passages."""
    rows = f"{len(content.get(TEST) or content[QUERIES])} rows"
    return f"{rows}, {len(content[CORPUS])} passages" if CORPUS in content else rows


def _documents(row: Row) -> int:
    return sum(len(row.get(name, ())) for name in ("documents", "positive", "negative"))


def _searched(content: Content, count: int) -> Content:
    queries = content[QUERIES][:count]
    names = {row["_id"] for row in queries}
    judged = [row for row in content[JUDGED] if row["query-id"] in names]
    right = {row["corpus-id"] for row in judged}
    others = mixed(row for row in content[CORPUS] if row["_id"] not in right)
    kept = right | {row["_id"] for row in others[: OTHERS * len(right)]}
    corpus = [row for row in content[CORPUS] if row["_id"] in kept]
    return {CORPUS: corpus, QUERIES: queries, JUDGED: judged}


def _shortened(row: Row) -> Row:
    """Return a row with fewer distractors."""
    if "documents" in row:
        return {**row, "documents": row["documents"][: max(DOCUMENTS, row["gold"])]}
    if "negative" in row:
        return {**row, "negative": row["negative"][:NEGATIVES]}
    return row


def _belongs(example: Row, rows: Sequence[Row]) -> bool:
    """Return whether an example has the group of one of the rows, or none."""
    groups = [name for name in GROUPS if name in example]
    return all(example[name] in {row[name] for row in rows} for name in groups)


def _few_of_each(rows: Sequence[Row]) -> list[Row]:
    """Return ``PER_LABEL`` rows of each label, shuffled."""
    taken: dict[Any, int] = {}
    kept = []
    for row in mixed(rows):
        taken[row["label"]] = taken.get(row["label"], 0) + 1
        if taken[row["label"]] <= PER_LABEL:
            kept.append(row)
    return kept
