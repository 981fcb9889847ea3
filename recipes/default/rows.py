"""One row of training data, whatever it is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A row as it is written, and what decides whether and where it is.

    Attributes:
        content: the JSON object; queries and passages of embedding rows get their instructions
            when they are written.
        texts: whole texts it was made from: none of them may belong to a report set.
        group: rows of one group are held out together, or not at all.
    """

    content: dict[str, Any]
    texts: tuple[str, ...]
    group: str


def pair(
    query: str, positives: Sequence[str], negatives: Sequence[str] = (), whole: Sequence[str] = ()
) -> Row:
    """A query with passages that answer it and some that do not.

    Args:
        whole: texts that were cut to make these.
    """
    content = {"query": query, "pos": list(positives), "neg": list(negatives)}
    texts = (query, *positives, *negatives, *whole)
    return Row(content, texts, group=positives[0])


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
    question: str, documents: Sequence[dict[str, str]], answer: str, whole: Sequence[str] = ()
) -> Row:
    """A question over documents ``{"title", "text"}``, the one that answers it first."""
    content = {"question": question, "documents": list(documents), "answer": answer}
    texts = (question, *(document["text"] for document in documents), *whole)
    return Row(content, texts, group=documents[0]["text"])
