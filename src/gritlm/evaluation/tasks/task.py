"""Local task: a folder with rows, described by ``task.toml``.

::

    name = "NQ-report"            # else the name of the folder
    half = "embedding"            # embedding | generation | rag | senses
    type = "Retrieval"            # STS | Retrieval | Classification | Clustering |
                                  # PairClassification | Reranking; generation tasks: lm-eval's
                                  # output_type; rag: QA; senses: ImageText |
                                  # AudioText | ImageQA
    description = "..."
    language = "eng"
    instruction = "Given a question, retrieve passages that answer it"
    passage_instruction = ""      # instruction of the passages, if they have one
    source = "..."                # origin of the rows
    licence = "..."

Rows, by type: STS ``test.jsonl`` with sentence1, sentence2, score; PairClassification the same with
label (0 or 1); Classification ``train.jsonl`` and ``test.jsonl`` with text, label; Clustering
``test.jsonl`` with text, label; Reranking ``test.jsonl`` with query, positive, negative (lists of
texts); Retrieval in BEIR's layout (``corpus.jsonl``, ``queries.jsonl``, ``qrels/test.tsv``);
generation ``task.yaml`` of lm-eval and ``test.jsonl``; rag ``test.jsonl`` with question, answers
and documents (the first ``gold`` of them, 1 by default, hold the answer); ImageText ``test.jsonl``
with image and name; AudioText with audio and text; ImageQA with image, question and answer (a text
or a list of texts). Images and sounds are paths of files in the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gritlm.evaluation.results import Kind


@dataclass(frozen=True)
class Task:
    """A local task; the docstring of this module lists its files.

    Attributes:
        name: name of the task.
        half: kind of the task: ``embedding``, ``generation``, ``rag`` or ``senses`` (the key in
            ``task.toml`` is ``half``).
        type: type of the task, e.g. ``STS``.
        folder: folder of the files.
        description: description shown in reports.
        language: language of the rows (ISO 639-3).
        instruction: instruction for queries and texts; empty for the default of the type.
        passage_instruction: instruction for passages; empty for none.
        source: origin of the rows.
        licence: licence of the rows.
    """

    name: str
    half: Kind
    type: str
    folder: Path
    description: str = ""
    language: str = "eng"
    instruction: str = ""
    passage_instruction: str = ""
    source: str = ""
    licence: str = ""
