"""Readers of question-answering datasets: questions with answers and passages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raw import one_line, read_json, read_lines

TRAINED = 1355  # training rows of Natural Questions; later rows are for evaluation
WORDS = 120  # of a passage of a long article

Passage = tuple[str, str]  # title, text


@dataclass(frozen=True)
class Asked:
    """Question with answers and passages; the first ``gold`` passages have the answer."""

    question: str
    answers: tuple[str, ...]
    passages: tuple[Passage, ...]
    gold: int = 1

    @property
    def right(self) -> tuple[Passage, ...]:
        return self.passages[: self.gold]

    @property
    def wrong(self) -> tuple[Passage, ...]:
        return self.passages[self.gold :]


def natural_questions(folder: Path) -> list[Asked]:
    """Return all rows; those after ``TRAINED`` are for evaluation."""
    made = []
    for row in read_lines(folder / "qa_data" / "nq-open-oracle.jsonl.gz"):
        gold = row["ctxs"][0]
        passage = (one_line(gold["title"]), one_line(gold["text"]))
        made.append(Asked(one_line(row["question"]), tuple(row["answers"]), (passage,)))
    return made


def open_book(folder: Path) -> list[Asked]:
    """Return 824 rows of Natural Questions with the annotated long answer."""
    place = folder / "scripts" / "eval" / "local_data" / "free_response"
    made = []
    for row in read_lines(place / "natural_questions_openbook_short.jsonl"):
        context, _, question = row["context"].rpartition("\n\nQuestion: ")
        passage = ("", one_line(context.removeprefix("Context: ")))
        answers = (row["answer"], *row["aliases"])
        made.append(Asked(one_line(question.removesuffix("Answer:")), answers, (passage,)))
    return made


def xquad(folder: Path, *, language: str, passages: str | None = None) -> list[Asked]:
    """Return questions with paragraphs, optionally in another language."""
    found = dict(_squad(folder / f"xquad.{passages or language}.json"))
    return [
        Asked(asked.question, asked.answers, found[name].passages)
        for name, asked in _squad(folder / f"xquad.{language}.json")
    ]


def hotpot(folder: Path) -> list[Asked]:
    """Return 100 rows of HotpotQA; supporting paragraphs come first."""
    made = []
    for row in read_json(folder / "data" / "hotpotqa_train.json"):
        supporting = {title for title, _ in row["supporting_facts"]}
        parts = [(title, one_line("".join(text))) for title, text in row["context"]]
        made.append(_supported(row, (row["answer"],), [(p, p[0] in supporting) for p in parts]))
    return made


def musique(folder: Path) -> list[Asked]:
    """Return 100 rows of MuSiQue; supporting paragraphs come first."""
    made = []
    for row in read_json(folder / "data" / "musique_train.json"):
        parts = [
            ((part["title"], one_line(part["paragraph_text"])), part["is_supporting"])
            for part in row["paragraphs"]
        ]
        made.append(_supported(row, (row["answer"], *row["answer_aliases"]), parts))
    return made


def pooled(folder: Path, name: str) -> list[Passage]:
    """Return the corpus of ``hotpotqa`` or ``musique``: all paragraphs of all questions."""
    corpus = read_json(folder / "data" / f"{name}_train_corpus.json")
    if isinstance(corpus, dict):
        return [(title, one_line("".join(text))) for title, text in corpus.items()]
    return [(row["title"], one_line(row["text"])) for row in corpus]


def pubmed(folder: Path) -> list[Asked]:
    """Return 1,000 questions (titles of papers) with abstracts, without their conclusions."""
    rows = read_json(folder / "data" / "ori_pqal.json").values()
    return [
        Asked(
            one_line(row["QUESTION"]),
            (row["final_decision"],),
            (("", one_line(" ".join(row["CONTEXTS"]))),),
        )
        for row in rows
    ]


def covid(folder: Path) -> tuple[list[Asked], list[Passage]]:
    """Return questions with the passages of their answers, and the passages of all articles.

    Only of the 92 articles that say that they are under CC BY; the other six say nothing.
    """
    asked = []
    corpus = []
    articles = read_json(folder / "data" / "question-answering" / "200423_covidQA.json")["data"]
    for paragraph in (part for article in articles for part in article["paragraphs"]):
        context = paragraph["context"]
        if not re.search(r"^License: ?cc-by$", context, flags=re.MULTILINE):
            continue
        title = one_line(context.strip().partition("\n")[0])
        pieces = [
            (start, end, (title, one_line(context[start:end]))) for start, end in _pieces(context)
        ]
        corpus += [passage for *_, passage in pieces]
        for row in paragraph["qas"]:
            texts = tuple(answer["text"] for answer in row["answers"])
            spans = [
                (a["answer_start"], a["answer_start"] + len(a["text"])) for a in row["answers"]
            ]
            right = [
                passage
                for start, end, passage in pieces
                if any(first < end and start < last for first, last in spans)
            ]
            asked.append(Asked(one_line(row["question"]), texts, tuple(right), len(right)))
    return asked, corpus


def key_values(folder: Path, *, keys: int) -> list[Asked]:
    """Return key-value retrieval with random keys and values: one gold record among others."""
    made = []
    for row in read_lines(folder / "kv_retrieval_data" / "kv-retrieval-75_keys.jsonl.gz"):
        records = dict(row["ordered_kv_records"])
        records = {row["key"]: row["value"], **records}  # the gold record is first
        passages = [("", f'The value of "{k}" is "{v}".') for k, v in records.items()]
        question = f'What is the value of "{row["key"]}"?'
        made.append(Asked(question, (row["value"],), tuple(passages[:keys])))
    return made


def _supported(row: dict[str, Any], answers: tuple[str, ...], parts: list[Any]) -> Asked:
    """Return a question; ``parts`` are (passage, whether it supports the answer)."""
    right = [passage for passage, supports in parts if supports]
    wrong = [passage for passage, supports in parts if not supports]
    return Asked(one_line(row["question"]), answers, (*right, *wrong), gold=len(right))


def _squad(path: Path) -> Iterator[tuple[str, Asked]]:
    """Yield questions with their ids."""
    for article in read_json(path)["data"]:
        title = one_line(article.get("title", "").replace("_", " "))
        for paragraph in article["paragraphs"]:
            passage = (title, one_line(paragraph["context"]))
            for row in paragraph["qas"]:
                answers = tuple(dict.fromkeys(answer["text"] for answer in row["answers"]))
                yield row["id"], Asked(one_line(row["question"]), answers, (passage,))


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of passages of whole sentences, about ``WORDS`` words each."""
    start = 0
    count = 0
    for sentence in re.finditer(r"\S.*?(?:[.?!](?=\s)|\n\n|\Z)", text, flags=re.DOTALL):
        size = len(sentence[0].split())
        if count and count + size > WORDS:
            yield start, sentence.start()
            start = sentence.start()
            count = 0
        count += size
    if count:
        yield start, len(text)
