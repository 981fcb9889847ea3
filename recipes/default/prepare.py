"""Preparation of training data: public datasets to JSONL files, reproducible byte for byte.

    python recipes/default/prepare.py DATA OUT

DATA has a folder a set, each with its SOURCE.txt. Only sets and rows that may be trained on are
written; a row that holds a text of a report set is dropped. OUT gets one file a source (batches
are of one source), a part of all for choosing settings (heldout-*.jsonl), and SOURCES.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chats
import descriptions
import pairs
import questions
import report
from rows import Row
from texts import fingerprint, number

HELD_OUT = 25  # one of 25 rows is held out

ANSWERS = (
    "Given a question, retrieve passages that answer it",
    "Retrieve the passage that answers the question",
    "Find text that answers this question",
    "",
)
SAME = (
    "Retrieve semantically similar text",
    "Find a sentence with the same meaning",
    "Retrieve a paraphrase of this text",
    "Represent the meaning of the sentence",
    "",
)
MEDICAL = (
    "Retrieve the answer to the medical question",
    "Given a question about health, find its answer",
    *ANSWERS[:2],
)
COMMANDS = (
    "Retrieve the command that does the task",
    "Given a task, find the command line for it",
    "Find a shell command",
)
PAPERS = (
    "Retrieve the abstract of the scientific paper",
    "Given a title or summary, retrieve the abstract",
    "Find the scientific paper that is about this",
)
TITLES = (
    "Given a title, retrieve the passage about it",
    "Retrieve the Wikipedia passage with this title",
    "Find an encyclopedia entry for this name",
    "",
)
BANKING = (
    "Retrieve a bank customer's question with the same intent",
    "Represent the intent of the customer's question",
    "Find questions that ask for the same thing",
)
INTENTS = (
    "Retrieve an utterance with the same intent",
    "Represent the intent of the request",
    "Find requests that ask for the same thing",
)


@dataclass(frozen=True)
class File:
    """File of training rows.

    Attributes:
        name: of the file, without its ending; up to the first dash it says what the rows are for.
        folder: of the data set.
        read: the folder -> rows.
        instructions: one of them is chosen for each query, by its text.
        symmetric: passages get the instruction of their query.
    """

    name: str
    folder: str
    read: Callable[[Path], Iterator[Row]]
    instructions: tuple[str, ...] = ()
    symmetric: bool = False

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]


FILES = (
    File("embedding-squad", "nqg-squad-sentences", pairs.squad, ANSWERS),
    File("embedding-paragraphs", "nqg-squad-sentences", pairs.paragraphs, ANSWERS),
    File("embedding-nq", "nq-open-oracle", pairs.natural_questions, ANSWERS),
    File("embedding-medquad", "medquad", pairs.medquad, MEDICAL),
    File("embedding-tldr", "tldr-pages", pairs.commands, COMMANDS),
    File("embedding-scitldr", "scitldr", pairs.papers, PAPERS),
    File("embedding-twowiki", "twowiki-corpus", pairs.wikipedia, TITLES),
    File("embedding-stsb", "stsbenchmark", pairs.similar_sentences, SAME, symmetric=True),
    File("embedding-banking77", "banking77", pairs.banking, BANKING, symmetric=True),
    File("embedding-clinc150", "clinc150", pairs.clinc, INTENTS, symmetric=True),
    File("embedding-reading", "t0-50k", pairs.reading, ANSWERS),
    File("embedding-paws", "t0-50k", pairs.paraphrases, SAME, symmetric=True),
    File("scored-stsb", "stsbenchmark", pairs.scored_sentences),
    File("generative-seed", "alpaca-seed", chats.seeds),
    File("generative-user", "t0-50k", chats.user_tasks),
    File("generative-alpaca", "llamafactory-demo", chats.alpaca),
    File("generative-dolly", "dolly-hhrlhf-small", chats.dolly),
    File("generative-gsm8k", "gsm8k", chats.mathematics),
    File("generative-t0", "t0-50k", chats.short_answers),
    File("rag-nq", "nq-open-oracle", questions.natural_questions),
    File("rag-quac", "nq-openbook-quac", questions.dialogues),
    File("rag-reading", "t0-50k", questions.reading),
    File("rag-medquad", "medquad", descriptions.medquad),
    File("rag-dolly", "dolly-hhrlhf-small", descriptions.dolly),
    File("rag-squad", "nqg-squad-sentences", descriptions.squad),
    File("rag-tldr", "tldr-pages", descriptions.commands),
    File("rag-wiki", "twowiki-corpus", questions.encyclopedia),
    File("apart-rag-plots", "t0-50k", questions.plots),
)
APART = "apart"  # kind of files that are measured only


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with a folder a data set")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    chosen = parser.parse_args()
    if missing := sorted({f.folder for f in FILES if not (chosen.data / f.folder).is_dir()}):
        parser.error(f"{chosen.data} has no folder {', '.join(missing)}; expected one a data set")
    for name, count in prepare(chosen.data, chosen.out).items():
        sys.stdout.write(f"{count:7} {name}\n")


def prepare(data: Path, out: Path) -> dict[str, int]:
    """Write all files; return their numbers of rows by name."""
    out.mkdir(parents=True, exist_ok=True)
    measured = report.fingerprints(data)
    counts: dict[str, int] = {}
    held: dict[str, list[Row]] = {}
    for file in FILES:
        clean = (without(row, measured) for row in file.read(data / file.folder))
        made = [finished(row, file) for row in clean if row is not None]
        kept, apart = [], []
        for row in made:
            used = file.kind == APART or number(row.group) % HELD_OUT
            (kept if used else apart).append(row)
        if file.kind != APART:
            held.setdefault(file.kind, []).extend(named(row, file.name) for row in apart)
        counts[f"{file.name}.jsonl"] = write(out / f"{file.name}.jsonl", kept)
    for kind, rows in held.items():  # shuffled, so that any prefix has rows of each source
        mixed = sorted(rows, key=lambda row: number(json.dumps(row.content)))
        counts[f"heldout-{kind}.jsonl"] = write(out / f"heldout-{kind}.jsonl", mixed)
    (out / "SOURCES.md").write_text(sources(data, counts), encoding="utf-8")
    return counts


def without(row: Row, measured: frozenset[str]) -> Row | None:
    """Return the row without evaluation passages; None if it cannot do without them."""
    found = {text for text in row.texts if fingerprint(text) in measured}
    if not found:
        return row
    content = dict(row.content)
    for side in ("pos", "neg"):
        if side in content:
            content[side] = [text for text in content[side] if text not in found]
            found -= set(row.content[side])
    if found or not content.get("pos"):
        return None
    return Row(content, row.texts, row.group)


def finished(row: Row, file: File) -> Row:
    """Return a row with ``[instruction, text]`` for queries and passages."""
    if not file.instructions:
        return row
    query = row.content["query"]
    instruction = file.instructions[number(query) % len(file.instructions)]
    passage_instruction = instruction if file.symmetric else ""
    content: dict[str, Any] = {"query": [instruction, query]}
    for side in ("pos", "neg"):
        content[side] = [[passage_instruction, text] for text in row.content[side]]
    return Row(content, row.texts, row.group)


def named(row: Row, source: str) -> Row:
    """Return a held-out row that names its file."""
    return Row({**row.content, "source": source}, row.texts, row.group)


def write(path: Path, rows: Sequence[Row]) -> int:
    lines = dict.fromkeys(json.dumps(row.content, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return len(lines)


def sources(data: Path, counts: dict[str, int]) -> str:
    """Return sources and licences of all files as a Markdown table."""
    lines = ["| file | rows | source | licence |", "| --- | --- | --- | --- |"]
    for file in FILES:
        about = _about(data / file.folder / "SOURCE.txt")
        cells = [f"{file.name}.jsonl", counts[f"{file.name}.jsonl"], about["Source"]]
        lines.append("| " + " | ".join(map(str, [*cells, about["Licence"]])) + " |")
    for name, count in counts.items():
        if name.startswith("heldout-"):
            kind = name.removeprefix("heldout-").removesuffix(".jsonl")
            lines.append(f"| {name} | {count} | one in {HELD_OUT} of all {kind} rows | as theirs |")
    return "# What the files are made from\n\n" + "\n".join(lines) + "\n"


def _about(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


if __name__ == "__main__":
    main()
