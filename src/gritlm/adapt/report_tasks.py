"""Tasks of the report, as local tasks: retrieval and answers on questions that are not trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gritlm.adapt.collection import HELD_OUT, CollectedPassage
from gritlm.adapt.config import WRITTEN_KINDS
from gritlm.adapt.run_folder import Row, RunFolder
from gritlm.adapt.starting_model import StartingModel
from gritlm.evaluation import fingerprints

FOLDER = "tasks"
LIST = "tasks.jsonl"  # names and numbers of questions
CALIBRATION = "calibration/test.jsonl"  # a task of its own, of trained documents
WRITTEN = "held-out-questions"
ANSWERS = "held-out-answers"
REAL = "real-questions"
REAL_TRAINED = "real-questions-trained-documents"
FEWEST = 10  # questions of a task
_DOCUMENTS = 5  # of a question to answer

_DESCRIPTIONS = {
    WRITTEN: "Questions written on documents that were not trained; all passages are searched",
    ANSWERS: "The same questions, to be answered from five passages; answers are quoted spans",
    REAL: "Questions people asked, on documents that were not trained; all passages are searched",
    REAL_TRAINED: "Questions people asked, not trained, on documents that were",
}


@dataclass(frozen=True)
class ReportTasks:
    """Writer of the tasks of the report.

    Attributes:
        folder: folder of the run.
        passages: passages of both parts of the collection.
        instruction: instruction of queries, as plain text.
        limit: most questions of a task.
    """

    folder: RunFolder
    passages: Sequence[CollectedPassage]
    instruction: str
    limit: int

    def write(
        self, written: Sequence[Row], asked: Sequence[Row], model: StartingModel
    ) -> dict[str, int]:
        """Write the tasks that have enough questions; return their numbers of questions.

        Args:
            written: questions written on the held-out part.
            asked: questions people asked, none of which is trained.
            model: the model that is adapted, whose nearest passages are the wrong documents.
        """
        shutil.rmtree(self.folder.path(FOLDER), ignore_errors=True)
        by_model = [row for row in written if row["kind"] in WRITTEN_KINDS]
        unseen = {row["question"] for row in asked if row["split"] == HELD_OUT}
        found: dict[str, list[Row]] = {
            WRITTEN: by_model or [row for row in written if row["kind"] == "keyword"],
            REAL: [row for row in asked if row["split"] == HELD_OUT],
            REAL_TRAINED: [row for row in asked if row["question"] not in unseen],
        }
        counts: dict[str, int] = {}
        for name, rows in found.items():
            asked_texts = list(dict.fromkeys(row["question"] for row in rows))[: self.limit]
            if len(asked_texts) >= FEWEST:
                # A question may be right for passages of both parts, all of which are searched.
                chosen = set(asked_texts)
                right = rows if name == WRITTEN else asked
                self._retrieval(name, [row for row in right if row["question"] in chosen])
                counts[name] = len(asked_texts)
        answered = [row for row in (*found[REAL], *by_model) if row["answer"]][: self.limit]
        if len(answered) >= FEWEST:
            self._answers(answered, model)
            counts[ANSWERS] = len(answered)
        files = sorted(path for path in self.folder.path(FOLDER).rglob("*") if path.is_file())
        content = fingerprints.of_files((str(number), path) for number, path in enumerate(files))
        rows = [{"task": name, "questions": count} for name, count in counts.items()]
        self.folder.write(LIST, [*rows, {"content": content}])
        return counts

    def _retrieval(self, name: str, rows: Sequence[Row]) -> None:
        by_document: dict[str, list[str]] = {}
        for passage in self.passages:
            by_document.setdefault(passage.document, []).append(passage.id)
        document = {passage.id: passage.document for passage in self.passages}
        judged: dict[str, dict[str, None]] = {}  # question -> passages, in order
        for row in rows:
            own = row["passage"]
            right = by_document[document[own]] if row.get("by_document") else [own]
            judged.setdefault(row["question"], {}).update(dict.fromkeys(right))
        at = self._begin(name, "Retrieval")
        _lines(at / "corpus.jsonl", [{"_id": p.id, "text": p.embedded} for p in self.passages])
        _lines(
            at / "queries.jsonl",
            [{"_id": str(number), "text": text} for number, text in enumerate(judged)],
        )
        (at / "qrels").mkdir()
        lines = [f"{n}\t{each}\t1" for n, right in enumerate(judged.values()) for each in right]
        text = "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n"
        (at / "qrels" / "test.tsv").write_text(text, encoding="utf-8")

    def _answers(self, rows: Sequence[Row], model: StartingModel) -> None:
        passage_PD = model.passage_vectors(self.passages)
        query_QD = model.query_vectors([row["question"] for row in rows])
        count = min(_DOCUMENTS, len(self.passages))
        nearest_QK = (query_QD @ passage_PD.T).topk(count, dim=1).indices.tolist()
        by_id = {passage.id: passage.embedded for passage in self.passages}
        made = []
        for row, near in zip(rows, nearest_QK, strict=True):
            others = [
                self.passages[i].embedded for i in near if self.passages[i].id != row["passage"]
            ]
            documents = [by_id[row["passage"]], *others][:count]
            made.append(
                {"question": row["question"], "answers": [row["answer"]], "documents": documents}
            )
        _lines(self._begin(ANSWERS, "QA") / "test.jsonl", made)

    def _begin(self, name: str, kind: str) -> Path:
        """Return the new folder of a task, with its description."""
        at = self.folder.path(FOLDER) / name
        at.mkdir(parents=True)
        about = {"name": name, "type": kind, "description": _DESCRIPTIONS[name]}
        if kind == "Retrieval":
            about["instruction"] = self.instruction
        # Strings of JSON are strings of TOML.
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in about.items())
        (at / "task.toml").write_text(text, encoding="utf-8")
        return at


def _lines(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
