"""Evaluation texts, which must not occur in training rows.

The report sets read here are those that share a source with a training set.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nq
from texts import fingerprint

LETTERS = 12  # shorter texts occur everywhere


def fingerprints(data: Path) -> frozenset[str]:
    """Return the fingerprints of all evaluation texts that are long enough."""
    found = (fingerprint(text) for text in _texts(data))
    return frozenset(print_ for print_ in found if len(print_) >= LETTERS)


def _texts(data: Path) -> Iterator[str]:
    yield from _similarity(data / "stsbenchmark")
    yield from _natural_questions(data)
    yield from _intents(data)
    for row in _json_lines(data / "gsm8k" / "grade_school_math" / "data" / "test.jsonl"):
        yield row["question"]
        yield row["answer"]
    for name in ("hotpotqa", "musique"):
        for row in _json(data / "hipporag-train100" / "data" / f"{name}_train.json"):
            yield row["question"]
    for row in _json(data / "hotpot-fever-dev" / "data" / "hotpot_dev_v1_simplified.json"):
        yield row["question"]
    for article in _json(data / "xquad" / "xquad.en.json")["data"]:
        for paragraph in article["paragraphs"]:
            yield paragraph["context"]
            yield from (question["question"] for question in paragraph["qas"])


def _similarity(folder: Path) -> Iterator[str]:
    for split in ("dev", "test"):  # some copies of the data have no test split
        path = folder / "data" / f"stsb-en-{split}.csv"
        if split == "dev" or path.is_file():
            for one, other, _ in csv.reader(path.read_text(encoding="utf-8").splitlines()):
                yield from (one, other)


def _natural_questions(data: Path) -> Iterator[str]:
    for entry in nq.all_rows(data / "nq-open-oracle")[nq.TRAINED :]:
        yield entry.question
        yield entry.passages[0][1]
    place = data / "nq-openbook-quac" / "scripts" / "eval" / "local_data" / "free_response"
    for row in _json_lines(place / "natural_questions_openbook_short.jsonl"):
        yield row["context"].rpartition("Question: ")[2].removesuffix("Answer:")


def _intents(data: Path) -> Iterator[str]:
    path = data / "banking77" / "banking_data" / "test.csv"
    for line in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        yield line["text"]
    whole = _json(data / "clinc150" / "data" / "data_full.json")
    for split in ("test", "oos_test"):
        yield from (text for text, _ in whole[split])


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _json_lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
