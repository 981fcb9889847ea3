"""Similarity datasets (pairs of texts) and classification datasets (texts with labels)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from contents import Content, measured
from raw import number, one_line, read_json, read_table

TAUGHT = 4  # one of 4 questions trains the classifier, the others are for evaluation


def ratings(folder: Path, *, language: str, split: str) -> Content:
    """Return the STS benchmark: two sentences and a rating from 0 to 5."""
    path = folder / "data" / f"stsb-{language}-{split}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return measured(
            {"sentence1": one, "sentence2": other, "score": float(score)}
            for one, other, score in csv.reader(file)
        )


def similar_questions(folder: Path) -> Content:
    """Return COVID-19 questions: two questions, and whether they have the same meaning."""
    rows = read_table(folder / "data" / "eval_question_similarity_en.csv")
    return measured(
        {
            "sentence1": one_line(row["question_1"]),
            "sentence2": one_line(row["question_2"]),
            "label": int(row["similar"]),
        }
        for row in rows
    )


def clauses(folder: Path) -> Content:
    """Return LegalBench: a question on a contract clause and the clause; 1 for yes."""
    return measured(row for task in sorted((folder / "tasks").iterdir()) for row in _clauses(task))


def _clauses(task: Path) -> Iterator[dict[str, object]]:
    """Yield rows of the yes-or-no tasks on contracts and non-disclosure agreements."""
    if not task.name.startswith(("cuad_", "contract_nli_")):
        return
    prompt = (task / "base_prompt.txt").read_text(encoding="utf-8")
    question = one_line(prompt.partition("\n")[0])
    for row in read_table(task / "train.tsv", tabs=True):
        label = int(row["answer"].strip().casefold() == "yes")
        yield {"sentence1": question, "sentence2": one_line(row["text"]), "label": label}


def banking(folder: Path, *, train: bool) -> Content:
    """Return Banking77: a customer's question and its intent."""
    test, taught = (_intents(folder / "banking_data" / f"{name}.csv") for name in ("test", "train"))
    return measured(test, taught if train else ())


def clinc(folder: Path, *, domains: bool = False, train: bool = False) -> Content:
    """Return CLINC150 without out-of-scope requests: a request and its intent or domain."""
    whole = read_json(folder / "data" / "data_full.json")
    groups = read_json(folder / "data" / "domains.json")
    domain = {intent: name for name, intents in groups.items() for intent in intents}
    test, taught = (
        [
            {"text": one_line(text), "label": domain[label] if domains else label}
            for text, label in whole[split]
        ]
        for split in ("test", "train")
    )
    return measured(test, taught if train else ())


def reasoning(folder: Path) -> Content:
    """Return HotpotQA's development split: question and type, comparison or bridge."""
    rows = read_json(folder / "data" / "hotpot_dev_v1_simplified.json")
    made = [{"text": one_line(row["question"]), "label": row["type"]} for row in rows]
    asked = [row for row in made if number(row["text"]) % TAUGHT]
    return measured(asked, [row for row in made if not number(row["text"]) % TAUGHT])


def _intents(path: Path) -> list[dict[str, str]]:
    rows = read_table(path)
    return [{"text": one_line(row["text"]), "label": row["category"]} for row in rows]
