"""Search a few texts by meaning.

python examples/search.py "When are dogs allowed?"
"""

from __future__ import annotations

import sys

from gritlm import GritLM

TEXTS = [
    "The library opens at nine and closes at six. On Sundays it is closed.",
    "Dogs are welcome in the reading room if they are on a lead.",
    "Books can be borrowed for four weeks and renewed twice.",
]


def main(question: str = "When are dogs allowed?", model: GritLM | None = None) -> None:
    """Print the texts, the nearest first, each with its cosine."""
    model = GritLM() if model is None else model
    query = model.encode_query(question)
    documents = model.encode_document(TEXTS)
    scores = model.similarity(query, documents).flatten().tolist()
    for score, text in sorted(zip(scores, TEXTS, strict=True), reverse=True):
        print(f"{score:.3f}  {text}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
