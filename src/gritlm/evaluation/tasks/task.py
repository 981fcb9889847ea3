"""A local task: a folder with its rows, and ``task.toml`` saying what they are.

::

    name = "NQ-report"            # else the name of the folder
    half = "embedding"            # embedding | generation | rag
    type = "Retrieval"            # STS | Retrieval | Classification | Clustering |
                                  # PairClassification | Reranking; generation tasks: lm-eval's
                                  # output_type; rag: QA
    description = "..."
    language = "eng"
    instruction = "Given a question, retrieve passages that answer it"
    passage_instruction = ""      # of the other side, where it has one
    source = "..."                # where the rows come from
    licence = "..."

Rows, by type: STS ``test.jsonl`` with sentence1, sentence2, score; PairClassification the same with
label (0 or 1); Classification ``train.jsonl`` and ``test.jsonl`` with text, label; Clustering
``test.jsonl`` with text, label; Reranking ``test.jsonl`` with query, positive, negative (lists of
texts); Retrieval in BEIR's layout (``corpus.jsonl``, ``queries.jsonl``, ``qrels/test.tsv``);
generation ``task.yaml`` of lm-eval beside ``test.jsonl``; rag ``test.jsonl`` with question, answers
and documents (the first ``gold`` of them, 1 by default, hold the answer).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gritlm.evaluation.results import Half


@dataclass(frozen=True)
class Task:
    """A local task, found and named. See the text of this module for its files.

    Attributes:
        folder: where its rows lie.
    """

    name: str
    half: Half
    type: str
    folder: Path
    description: str = ""
    language: str = "eng"
    instruction: str = ""
    passage_instruction: str = ""
    source: str = ""
    licence: str = ""
