"""Small local tasks of every type, made of the sentences of the tiny tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gritlm.evaluation.tasks.task import Task
from tests.tiny import SENTENCES

FOX, MODEL, BALL, CATS, WATER = SENTENCES

PAIRS = [
    (FOX, "A fast brown fox jumps over a dog.", 4.5),
    (FOX, WATER, 0.2),
    (CATS, "Cats sleep and dogs walk.", 4.0),
    (CATS, MODEL, 0.5),
    (WATER, "Water freezes at 0 degrees.", 3.6),
    (BALL, "What colour is the red ball?", 3.1),
    (BALL, CATS, 1.0),
    (MODEL, "One model writes and searches.", 4.1),
]
CLASSED = [
    (f"{name} {verb} {where}", label)
    for label, name, verb in (("animal", "The dog", "sleeps"), ("thing", "A red ball", "lies"))
    for where in ("in the park", "over the day", "on the box", "at the car", "with Bob", "by Ann")
]
PASSAGES = {"fox": FOX, "model": MODEL, "ball": BALL, "cats": CATS, "water": WATER}
QUERIES = {"q1": "What does the fox do?", "q2": "Who sleeps?", "q3": "When does water boil?"}
RELEVANT = {"q1": {"fox": 1}, "q2": {"cats": 1, "fox": 1}, "q3": {"water": 1}}


def jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def task(folder: Path, kind: str, **more: str) -> Task:
    return Task(name=f"tiny-{kind}", half="embedding", type=kind, folder=folder, **more)


def sts(folder: Path, **more: str) -> Task:
    rows = ({"sentence1": one, "sentence2": two, "score": gold} for one, two, gold in PAIRS)
    jsonl(folder / "test.jsonl", rows)
    return task(folder, "STS", **more)


def pair_classification(folder: Path) -> Task:
    rows = ({"sentence1": a, "sentence2": b, "label": int(gold > 3)} for a, b, gold in PAIRS)
    jsonl(folder / "test.jsonl", rows)
    return task(folder, "PairClassification")


def classification(folder: Path) -> Task:
    rows = [{"text": text, "label": label} for text, label in CLASSED]
    jsonl(folder / "train.jsonl", rows[::2])
    jsonl(folder / "test.jsonl", rows[1::2])
    return task(folder, "Classification")


def clustering(folder: Path) -> Task:
    jsonl(folder / "test.jsonl", ({"text": text, "label": label} for text, label in CLASSED))
    return task(folder, "Clustering")


def retrieval(folder: Path, **more: str) -> Task:
    jsonl(
        folder / "corpus.jsonl",
        ({"_id": key, "title": key, "text": text} for key, text in PASSAGES.items()),
    )
    unjudged = {"q0": "Whom nobody judged?"}
    asked = ({"_id": key, "text": text} for key, text in (unjudged | QUERIES).items())
    jsonl(folder / "queries.jsonl", asked)
    lines = [f"{q}\t{p}\t{n}" for q, found in RELEVANT.items() for p, n in found.items()]
    (folder / "qrels").mkdir(exist_ok=True)
    text = "\n".join(["query-id\tcorpus-id\tscore", *lines, ""])
    (folder / "qrels" / "test.tsv").write_text(text, encoding="utf-8")
    return task(folder, "Retrieval", **more)


def reranking(folder: Path) -> Task:
    rows = [
        {"query": QUERIES["q1"], "positive": [FOX], "negative": [CATS, WATER, BALL]},
        {"query": QUERIES["q2"], "positive": [CATS, FOX], "negative": [WATER, MODEL]},
    ]
    jsonl(folder / "test.jsonl", rows)
    return task(folder, "Reranking")


MAKERS = {
    "STS": sts,
    "PairClassification": pair_classification,
    "Classification": classification,
    "Clustering": clustering,
    "Retrieval": retrieval,
    "Reranking": reranking,
}
