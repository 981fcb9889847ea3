"""Quality of answers from reused state, compared with plain prompts, no context, wrong documents.

    python -m benchmarks.rag.quality DATA [--model FOLDER] [--sets nq,hotpotqa,musique]
                                     [--top-k 1,5] [--limit 100] [--storage auto]
                                     [--modes sequence,doc,...] [--kinds causal,bidirectional]
                                     [--figures FILE.jsonl] [--plot FILE.png]

DATA has ``nq-open-oracle`` (the last 300 rows; the passages of all rows are the corpus) and
``hipporag-train100``. Every mode answers from the same retrieved passages, greedily, joined in one
prompt; ``sequence`` and ``token`` read each passage alone, from stored blocks. Per mode:
match, exact match and F1; the share of answers equal to those of mode none; the mean divergence
(KL) of the first token from mode none. Also recall of the retrieval, bytes per passage and seconds
of indexing. These are report sets: nothing is tuned on them.

``--figures`` writes the answers, tokens and times of each question, and ``--plot`` draws match over
the time from the text of the question to the first token; both take a single set.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from benchmarks.common import machine, table
from benchmarks.rag import frontier

from gritlm import GritLM
from gritlm.evaluation import answers
from gritlm.lm.sampling import SamplingParams
from gritlm.rag import answer
from gritlm.rag.engine import RagEngine
from gritlm.rag.options import AnswerOptions
from gritlm.rag.types import Hit

MODES = ("sequence", "token", "doc", "query", "doc-query", "query-doc")
KINDS = ("causal", "bidirectional")
MEASURED = 300  # last rows of Natural Questions
NEW_TOKENS = 24


@dataclass(frozen=True)
class Question:
    """Question, accepted answers, and the ids of the documents that contain them."""

    text: str
    answers: tuple[str, ...]
    gold: frozenset[str]


@dataclass
class Column:
    """Results of one mode and kind of blocks.

    Attributes:
        texts: the answers.
        first: log-probabilities of the first token.
        prefilled: tokens read.
        documents: ids of the documents that the answers come from; the best one of a joint prompt.
        milliseconds: times from the text of the question to the first token.
    """

    texts: list[str] = field(default_factory=list)
    first: list[torch.Tensor] = field(default_factory=list)
    prefilled: list[int] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--sets", default="nq,hotpotqa,musique")
    parser.add_argument("--top-k", default="1,5")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--storage", default="auto")
    parser.add_argument("--modes", default=",".join(MODES), help="compared with mode none")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--figures", type=Path, default=None)
    parser.add_argument("--plot", type=Path, default=None)
    chosen = parser.parse_args()
    if (chosen.figures or chosen.plot) and "," in chosen.sets:
        parser.error(f"--sets is {chosen.sets}; --figures and --plot take a single set")
    model = GritLM(chosen.model)
    print(f"{machine()}, {model.dtype}, {model.source}, blocks stored as {chosen.storage}\n")
    for name in chosen.sets.split(","):
        documents, questions = natural(chosen.data) if name == "nq" else multihop(chosen.data, name)
        measure(model, name, documents, questions[: chosen.limit], chosen)


def measure(
    model: GritLM,
    name: str,
    documents: list[dict[str, str]],
    questions: Sequence[Question],
    chosen: argparse.Namespace,
) -> None:
    with (
        tempfile.TemporaryDirectory() as place,
        RagEngine.open(Path(place) / "store", model, storage=chosen.storage) as engine,
    ):
        started = time.perf_counter()
        added = engine.add(documents)
        seconds = time.perf_counter() - started
        nbytes = engine.store.nbytes
        print(
            f"## {name}: {len(questions)} questions, {added.passages} passages of "
            f"{added.documents} documents, {nbytes / added.passages / 1e6:.2f} MB a passage, "
            f"indexed in {seconds:.0f} s\n"
        )
        searches = [search(engine, question.text) for question in questions]
        found = [each.hits for each in searches]
        recall = {
            k: fmean(recalled(q, hits[:k]) for q, hits in zip(questions, found, strict=True))
            for k in (1, 5, 10)
        }
        print(", ".join(f"recall@{k} {100 * value:.1f}" for k, value in recall.items()) + "\n")
        figures: list[dict[str, Any]] = [{"q": q.text, "gold": sorted(q.gold)} for q in questions]
        for top_k in map(int, chosen.top_k.split(",")):
            hits = [each[:top_k] for each in found]
            ways = [
                (mode, kind) for kind in chosen.kinds.split(",") for mode in chosen.modes.split(",")
            ]
            columns = measured(engine, questions, hits, ways)
            print(f"### {top_k} passage(s)\n\n{report(columns, questions)}\n")
            for name, column in columns.items():
                add_figures(figures, f"{name}, k = {top_k}", column, questions, searches)
        save(figures, chosen)


@dataclass(frozen=True)
class TimedSearch:
    """Hits of a question, and the milliseconds of the search without the embedding."""

    hits: list[Hit]
    milliseconds: float


def search(engine: RagEngine, question: str) -> TimedSearch:
    options = AnswerOptions(top_k=10)
    query = engine.query(question, options)
    started = time.perf_counter()
    nearest = engine.nearest(query, options)
    taken = 1000 * (time.perf_counter() - started)
    return TimedSearch(list(engine.ordered(query, nearest, options)), taken)


def add_figures(
    figures: Sequence[dict[str, Any]],
    name: str,
    column: Column,
    questions: Sequence[Question],
    searches: Sequence[TimedSearch],
) -> None:
    """Add a setting to the figures of each question, in the form of frontier.py.

    An answer with passages given embeds the question again, so only the search is added.
    """
    if not column.milliseconds or name.startswith("shuffled"):
        return
    for number, question in enumerate(questions):
        text = column.texts[number]
        figures[number][name] = [
            text,
            column.documents[number],
            column.prefilled[number],
            column.milliseconds[number] + searches[number].milliseconds,
            answers.match(text, question.answers),
            answers.f1(text, question.answers),
        ]


def save(figures: Sequence[dict[str, Any]], chosen: argparse.Namespace) -> None:
    if chosen.figures is not None:
        lines = [json.dumps(each, ensure_ascii=False) + "\n" for each in figures]
        chosen.figures.write_text("".join(lines), encoding="utf-8")
    if chosen.plot is not None:
        frontier.draw(chosen.plot, figures, frontier.names(figures))
        print(chosen.plot)


def recalled(question: Question, hits: Sequence[Hit]) -> float:
    got = {hit.passage.document_id for hit in hits}
    return len(got & question.gold) / len(question.gold)


def measured(
    engine: RagEngine,
    questions: Sequence[Question],
    hits: Sequence[list[Hit]],
    ways: Sequence[tuple[str, str]],
) -> dict[str, Column]:
    columns = {"none": asked(engine, questions, hits, "none", "bidirectional")}
    for mode, kind in ways:
        columns[f"{mode}, {kind}"] = asked(engine, questions, hits, mode, kind)
    columns["no context"] = alone(engine.model, questions)
    # The passages of another question: does it read at all?
    columns["shuffled, none"] = asked(
        engine, questions, [*hits[1:], *hits[:1]], "none", "bidirectional"
    )
    return columns


def report(columns: dict[str, Column], questions: Sequence[Question]) -> str:
    plain = columns["none"]
    return table(
        ("mode", "match", "EM", "F1", "as none", "KL of first token", "read"),
        [row(name, column, plain, questions) for name, column in columns.items()],
    )


def asked(
    engine: RagEngine,
    questions: Sequence[Question],
    hits: Sequence[list[Hit]],
    mode: str,
    kind: str,
) -> Column:
    column = Column()
    sampling = SamplingParams(max_new_tokens=NEW_TOKENS)
    alone = mode in ("sequence", "token")
    options = AnswerOptions(
        fusion=mode if alone else "joint",
        mode="doc" if alone else mode,
        blocks=kind,
        sampling=sampling,
    )
    for question, found in zip(questions, hits, strict=True):
        prepared = engine.prepare(question.text, options, hits=found)
        column.first.append(prepared.prompt.logits_V.float().log_softmax(-1))
        column.texts.append("".join(answer.generate(engine.model, prepared, sampling)))
        column.prefilled.append(prepared.trace.tokens_read)
        column.documents.append(prepared.sources[0].document_id)
        column.milliseconds.append(prepared.trace.milliseconds["first_token"])
    return column


def alone(model: GritLM, questions: Sequence[Question]) -> Column:
    texts = [
        str(model.chat(f"{q.text}\n\nAnswer in a few words.", max_new_tokens=NEW_TOKENS))
        for q in questions
    ]
    return Column(texts)


def row(name: str, column: Column, plain: Column, questions: Sequence[Question]) -> list[str]:
    pairs = [(text, q.answers) for text, q in zip(column.texts, questions, strict=True)]
    scores = [
        100 * fmean(score(*pair) for pair in pairs)
        for score in (answers.match, answers.exact, answers.f1)
    ]
    same = fmean(a == b for a, b in zip(column.texts, plain.texts, strict=True))
    divergence = [
        float((p.exp() * (p - q)).sum()) for p, q in zip(plain.first, column.first, strict=False)
    ]
    return [
        name,
        *(f"{score:.1f}" for score in scores),
        f"{100 * same:.0f}%",
        f"{fmean(divergence):.3f}" if column.first else "",
        f"{fmean(column.prefilled):.0f}" if column.prefilled else "",
    ]


def natural(data: Path) -> tuple[list[dict[str, str]], list[Question]]:
    """All passages, and the questions that are measured."""
    path = data / "nq-open-oracle" / "qa_data" / "nq-open-oracle.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    documents: dict[tuple[str, str], dict[str, str]] = {}
    questions = []
    for number, entry in enumerate(rows):
        passage = entry["ctxs"][0]
        key = (passage["title"], passage["text"])
        document = documents.setdefault(
            key, {"id": f"nq-{len(documents)}", "title": key[0], "text": key[1]}
        )
        if number >= len(rows) - MEASURED:
            gold = frozenset([document["id"]])
            questions.append(Question(entry["question"], tuple(entry["answers"]), gold))
    return list(documents.values()), questions


def multihop(data: Path, name: str) -> tuple[list[dict[str, str]], list[Question]]:
    """HotpotQA or MuSiQue: the pooled passages, and all questions."""
    folder = data / "hipporag-train100" / "data"
    corpus = json.loads((folder / f"{name}_train_corpus.json").read_text(encoding="utf-8"))
    documents = list(passages(name, corpus))
    known = {(row["title"], row["text"].strip()): row["id"] for row in documents}
    rows = json.loads((folder / f"{name}_train.json").read_text(encoding="utf-8"))
    return documents, [one(name, each, known) for each in rows]


def passages(name: str, corpus: object) -> Iterator[dict[str, str]]:
    if isinstance(corpus, dict):
        corpus = [{"title": title, "text": "".join(text)} for title, text in corpus.items()]
    assert isinstance(corpus, list)
    for number, each in enumerate(corpus):
        text = each["text"].strip()
        yield {"id": f"{name}-{number}", "title": each["title"], "text": text}


def one(name: str, entry: dict, known: dict[tuple[str, str], str]) -> Question:
    if name == "hotpotqa":
        titles = {title for title, _ in entry["supporting_facts"]}
        gold = {
            (title, "".join(text).strip()) for title, text in entry["context"] if title in titles
        }
        return Question(entry["question"], (entry["answer"],), ids(gold, known))
    gold = {
        (p["title"], p["paragraph_text"].strip()) for p in entry["paragraphs"] if p["is_supporting"]
    }
    accepted = (entry["answer"], *entry.get("answer_aliases", []))
    return Question(entry["question"], accepted, ids(gold, known))


def ids(gold: set[tuple[str, str]], known: dict[tuple[str, str], str]) -> frozenset[str]:
    found = frozenset(known[each] for each in gold if each in known)
    assert found, f"no gold passage of {gold} is in the corpus"
    return found


if __name__ == "__main__":
    main()
