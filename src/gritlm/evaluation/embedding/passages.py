"""Retrieval and reranking data in mteb's format, from BEIR's layout and from lists of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from gritlm import jsonl
from gritlm.errors import InputError
from gritlm.evaluation.embedding import rows
from gritlm.evaluation.embedding.rows import TaskRow
from gritlm.evaluation.tasks.bad_rows import BadRows

CORPUS = "corpus.jsonl"
QUERIES = "queries.jsonl"
QRELS = "qrels/test.tsv"
TEST = "test.jsonl"
HEADER = ["query-id", "corpus-id", "score"]

Relevance = dict[str, dict[str, int]]  # query -> passage -> how relevant
Data = Mapping[str, Mapping[str, Mapping[str, Any]]]  # subset -> split -> parts


def retrieval(folder: Path, limit: int | None, bad: BadRows) -> Data:
    """Return the data of BEIR's three files; queries without a judgement are left out.

    Args:
        folder: folder of the task.
        limit: number of queries to keep; None for all. All passages are kept.
        bad: collector of unusable rows and of judgements of unknown queries and passages.

    Raises:
        InputError: for a wrong file, column, value or id, with ``file:line``.
    """
    passages = _by_id(folder / CORPUS, rows.STRING, bad, _require_words)
    queries = _by_id(folder / QUERIES, rows.TEXT, bad)
    relevant = _judgements(folder / QRELS, queries, passages, bad)
    kept = [query for query in queries if query in relevant][:limit]
    return _data(
        corpus=Dataset.from_dict(
            {
                "id": list(passages),
                "title": [row.values.get("title") or "" for row in passages.values()],
                "text": [row["text"] for row in passages.values()],
            }
        ),
        queries=_texts(kept, [queries[query]["text"] for query in kept]),
        relevant_docs={query: relevant[query] for query in kept},
        top_ranked=None,
    )


def reranking(folder: Path, limit: int | None, bad: BadRows) -> Data:
    """Return queries with positive and negative passages of their own.

    Raises:
        InputError: for a wrong column or value, with ``file:line``.
    """
    columns = {"query": rows.TEXT, "positive": rows.TEXTS, "negative": rows.TEXTS}
    found = rows.read(folder / TEST, columns, bad, _require_apart)[:limit]
    ids = []
    texts = []
    relevant: Relevance = {}
    ranked: dict[str, list[str]] = {}
    for number, row in enumerate(found):
        query = f"q{number}"
        # Among equal scores the later name ranks first: a model that gives all texts the same
        # score gets no credit.
        right = {f"{query}-a{i}": text for i, text in enumerate(row["positive"])}
        wrong = {f"{query}-b{i}": text for i, text in enumerate(row["negative"])}
        ids += [*right, *wrong]
        texts += [*right.values(), *wrong.values()]
        relevant[query] = {**dict.fromkeys(right, 1), **dict.fromkeys(wrong, 0)}
        ranked[query] = [*right, *wrong]
    return _data(
        corpus=_texts(ids, texts),
        queries=_texts(list(relevant), [row["query"] for row in found]),
        relevant_docs=relevant,
        top_ranked=ranked,
    )


def _data(**parts: Any) -> Data:
    return {"default": {"test": parts}}


def _texts(ids: Sequence[str], texts: Sequence[str]) -> Dataset:
    return Dataset.from_dict({"id": list(ids), "text": list(texts)})


def _require_words(row: TaskRow) -> None:
    """Check that a passage has words in its title or its text."""
    title = row.values.get("title") or ""
    rows.require(row.place, "title", title, rows.STRING)
    if not (title + row["text"]).strip():
        raise InputError(f"{row.place}: neither 'title' nor 'text' has words")


def _by_id(
    path: Path, text: rows.Column, bad: BadRows, check: Callable[[TaskRow], None] | None = None
) -> dict[str, TaskRow]:
    """Return the rows of a file by id; of two rows with the same id, the first is used."""
    by_id: dict[str, TaskRow] = {}

    def checked(row: TaskRow) -> None:
        if check is not None:
            check(row)
        if row["_id"] in by_id:
            raise InputError(f"{row.place}: _id {row['_id']!r} is in {by_id[row['_id']].place} too")
        by_id[row["_id"]] = row

    rows.read(path, {"_id": rows.TEXT, "text": text}, bad, checked)
    return by_id


def _judgements(
    path: Path, queries: Mapping[str, TaskRow], passages: Mapping[str, TaskRow], bad: BadRows
) -> Relevance:
    lines = jsonl.text_lines(path)
    place, head = next(lines, (f"{path}:1", ""))
    if head.split() != HEADER:
        raise InputError(f"{place}: {head.strip()!r}; expected the header {' '.join(HEADER)!r}")

    def known(line: tuple[str, str]) -> tuple[str, str, int]:
        query, passage, score = _judgement(*line)
        for ids, name, file in ((queries, query, QUERIES), (passages, passage, CORPUS)):
            if name not in ids:
                raise InputError(f"{line[0]}: {name!r} is no _id in {path.parents[1] / file}")
        return query, passage, score

    found: Relevance = {}
    for query, passage, score in bad.keep_usable(lines, known, path=path):
        found.setdefault(query, {})[passage] = score
    if not found:
        raise InputError(f"{path} judges no query; expected a line for each relevant passage")
    return found


def _judgement(place: str, line: str) -> tuple[str, str, int]:
    cells = line.split("\t")
    if len(cells) != len(HEADER):
        raise InputError(f"{place}: {len(cells)} columns with tabs between; expected {len(HEADER)}")
    try:
        return cells[0], cells[1], int(cells[2])
    except ValueError:
        raise InputError(
            f"{place}: column 'score' is {cells[2]!r}; expected a whole number"
        ) from None


def _require_apart(row: TaskRow) -> None:
    for text in row["positive"]:
        if text in row["negative"]:
            raise InputError(f"{row.place}: {text[:60]!r} is both in 'positive' and 'negative'")
