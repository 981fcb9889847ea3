"""Training row of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """Row as written to a file, and the texts that decide on its use.

    Attributes:
        content: the JSON object; writing adds the instructions of queries and passages.
        texts: full texts of the row; none of them may be an evaluation text.
        group: rows with the same group are held out together, or not at all.
    """

    content: dict[str, Any]
    texts: tuple[str, ...]
    group: str


def pair(
    query: str,
    positives: Sequence[str],
    negatives: Sequence[str] = (),
    whole: Sequence[str] = (),
    group: str = "",
) -> Row:
    """Return a row with a query, its positives and its negatives.

    Args:
        query: the query.
        positives: passages that answer the query.
        negatives: passages that do not.
        whole: full texts that the passages were cut from.
        group: rows with the same group are held out together; by default the first positive.
    """
    content = {"query": query, "pos": list(positives), "neg": list(negatives)}
    texts = (query, *positives, *negatives, *whole)
    return Row(content, texts, group=group or positives[0])


def scored(one: str, other: str, score: float) -> Row:
    content = {"sentence1": one, "sentence2": other, "score": score}
    return Row(content, (one, other), group=one)


def chat(user: str, assistant: str) -> Row:
    messages = [
        {"role": "user", "content": user},
        {"role": "assistant", "content": assistant},
    ]
    return Row({"messages": messages}, (user, assistant), group=user)


def rag(
    question: str,
    documents: Sequence[dict[str, str]],
    answer: str,
    whole: Sequence[str] = (),
    group: str = "",
) -> Row:
    """Return a RAG row; the first of the documents ``{"title", "text"}`` has the answer.

    Args:
        question: the question.
        documents: the documents.
        answer: the answer.
        whole: full texts that the documents were cut from.
        group: rows with the same group are held out together; by default the first document.
    """
    content = {"question": question, "documents": list(documents), "answer": answer}
    texts = (question, *(document["text"] for document in documents), *whole)
    return Row(content, texts, group=group or documents[0]["text"])
