"""Documents and real questions of a field, for `gritlm adapt`.

    python recipes/evaluation/fields.py medicine DATA/medquad OUT [--limit N]
    python recipes/evaluation/fields.py law DATA/legalbench OUT [--limit N]

OUT gets documents.jsonl and questions.jsonl. The questions are those of people: they are for the
report alone (--report-questions), nothing is trained on them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from raw import mixed, number, one_line, words
from similar import clauses

LIMIT = 1000  # documents
FEWEST_WORDS = 25  # of a document of the field of medicine
_NO_ANSWER = ("The Human Phenotype Ontology provides", "These resources address")

Row = dict[str, str]
Field = tuple[list[Row], list[Row]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("field", choices=FIELDS)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the data set")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="N", help="most documents")
    chosen = parser.parse_args()
    if not chosen.data.is_dir():
        parser.error(f"{chosen.data} is no folder; expected that of the data set")
    documents, questions = FIELDS[chosen.field](chosen.data, chosen.limit)
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("documents", documents), ("questions", questions)):
        write(chosen.out / f"{name}.jsonl", rows)
        sys.stdout.write(f"{len(rows):7} {name}\n")


def write(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="\n")


def medicine(folder: Path, limit: int) -> Field:
    """Return MedQuAD: answers of health institutes as documents, and their questions.

    Whole topics are drawn until there are enough answers. An answer that several questions share is
    one document.
    """
    documents: dict[str, Row] = {}
    questions = []
    for topic in mixed(_topics(folder / "medquad.tar.gz")):
        if len(documents) >= limit:
            break
        for question, answer in topic["pairs"]:
            name = f"{number([topic['focus'], answer]):016x}"
            documents[name] = {"id": name, "title": topic["focus"], "text": answer}
            questions.append({"question": question, "document": name})
    return list(documents.values()), questions


def _topics(path: Path) -> Iterator[dict[str, object]]:
    """Yield topic, questions and answers of each page."""
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".xml") else None
            if file is None:
                continue
            page = ElementTree.fromstring(file.read())
            found = [pair for each in page.iter("QAPair") if (pair := _pair(each))]
            if found:
                yield {"focus": one_line(page.findtext("Focus", "")), "pairs": found}


def _pair(found: ElementTree.Element) -> tuple[str, str] | None:
    """Return question and answer; None for a notice or a fragment."""
    question = one_line(found.findtext("Question", ""))
    question = question.replace("What is (are)", "What is").replace(" ?", "?")
    answer = one_line(found.findtext("Answer", ""))
    if answer.lower().startswith(question.lower()):
        answer = answer[len(question) :].strip()
    # The headings that pages of GARD repeat are not part of the answer.
    answer = re.sub(r"^(What|How|Is|Are|Who|Can)\b[^.?]{5,120}\? ", "", answer)
    answer = answer.removeprefix("Key Points - ")
    notice = any(each in answer for each in _NO_ANSWER)
    return None if notice or len(words(answer)) < FEWEST_WORDS else (question, answer)


def law(folder: Path, limit: int) -> Field:
    """Return LegalBench: clauses of contracts as documents, and the questions they hold for."""
    documents: dict[str, Row] = {}
    questions = []
    (rows,) = clauses(folder).values()
    for row in rows:
        text = str(row["sentence2"])
        name = f"{number(text):016x}"
        if name not in documents and len(documents) >= limit:
            continue
        documents[name] = {"id": name, "text": text}
        if row["label"]:
            questions.append({"question": str(row["sentence1"]), "document": name})
    return list(documents.values()), questions


FIELDS = {"medicine": medicine, "law": law}

if __name__ == "__main__":
    main()
