"""Index documents once and answer from their stored key/value state.

python examples/rag.py "What is a tsunami?"
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from gritlm import GritLM
from gritlm.rag import AnswerOptions, RagEngine

CORPUS = Path(__file__).parent / "corpus" / "passages.jsonl"


def main(question: str = "What is a tsunami?", model: GritLM | None = None) -> None:
    """Print an answer with its sources, and the tokens that were read and reused."""
    with tempfile.TemporaryDirectory() as store, RagEngine.open(store, model) as engine:
        added = engine.add(CORPUS)
        print(f"{added.documents} documents, {added.passages} passages")
        answer = engine.answer(question, AnswerOptions(top_k=1))
        print(answer.text)
        for source in answer.sources:
            print(f"  from {source.title!r} (cosine {source.score:.2f})")
        print(f"{answer.trace.tokens_read} tokens read, {answer.trace.tokens_reused} reused")


if __name__ == "__main__":
    main(*sys.argv[1:2])
