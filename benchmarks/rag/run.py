"""Time to the first token of an answer, with fresh documents and with reused key/value blocks.

    python -m benchmarks.rag.run [--model FOLDER] [--tokens 512,1024,2048,4096] [--documents 1]
                             [--question 32] [--repeats 30] [--fresh-repeats 10]
                             [--storage auto,int8] [--ways sequence,doc] [--margin 2]
                             [--plot FILE.png]

End to end, one question at a time: from its text to the first id of the answer, with its embedding,
the search, reading and placing key/value state. All find the same passages; ``sequence`` and
``token`` read those within the margin of the model alone, a mode joins all in one prompt. ``cold``:
the files are dropped from the page cache and mapped again; ``warm``: in the page cache; ``hot``: in
memory. Mode none is the peer: the same model, number format and threads, logits of the last
position only, no padding. Where other work runs on the machine, compare the least CPU times.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import machine, part_of, passages_with_titles, table

from gritlm import GritLM
from gritlm.prompts import gritlm_instruction
from gritlm.rag.answer import Answer
from gritlm.rag.engine import RagEngine
from gritlm.rag.ingest.ingest import ChunkingOptions

CACHED = ("sequence", "token", "doc", "doc-query", "query-doc")
WARMUPS = 5
MEMORY = 4 * 2**30


@dataclass(frozen=True)
class Case:
    """Row of the table: way of the answer, and tier of the store that holds the blocks.

    A mode puts all documents into one prompt; ``sequence`` and ``token`` read each alone.
    """

    way: str
    tier: str

    @property
    def name(self) -> str:
        return self.way if self.way in ("none", "query") else f"{self.way} {self.tier}"


@dataclass(frozen=True)
class Taken:
    """An answer, and the CPU time of its request in milliseconds."""

    answer: Answer
    cpu_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=None, help="left out: the default model")
    parser.add_argument("--tokens", default="512,1024,2048,4096", help="of all documents together")
    parser.add_argument("--documents", type=int, default=1)
    parser.add_argument("--question", type=int, default=32, help="tokens of the question")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--fresh-repeats", type=int, default=10, help="of mode none and query")
    parser.add_argument("--storage", default="auto", help="number formats of stored blocks")
    parser.add_argument("--ways", default="", help="measured next to none; left out: all")
    parser.add_argument(
        "--margin", type=float, default=None, help="cosine window; left out: that of the model"
    )
    parser.add_argument("--plot", type=Path, default=None)
    chosen = parser.parse_args()
    model = GritLM(chosen.model)
    sizes = [int(size) for size in chosen.tokens.split(",")]
    print(
        f"{machine()}, {model.dtype}, {chosen.documents} document(s), question of "
        f"{chosen.question} tokens, {chosen.repeats} repeats ({chosen.fresh_repeats} fresh)\n"
    )
    question = words(model, chosen.question)
    curves: dict[str, list[float]] = {}
    for storage in chosen.storage.split(","):
        for size in sizes:
            rows = measured(model, size, chosen, storage, question)
            print(f"### {size} tokens, blocks stored as {storage}\n")
            print(table(HEADER, [line(name, taken, rows) for name, taken in rows.items()]) + "\n")
            for name, taken in rows.items():
                curves.setdefault(f"{name} ({storage})", []).append(median_ms(taken))
    if chosen.plot is not None:
        plot(chosen.plot, sizes, curves)


HEADER = (
    "mode",
    "prefilled",
    "read again",
    "reused",
    "least CPU ms",
    "less CPU than none",
    "least ms",
    "median ms",
    "p95 ms",
    "times faster than none",
)


def measured(
    model: GritLM, size: int, chosen: argparse.Namespace, storage: str, question: str
) -> dict[str, list[Taken]]:
    """Answers of every case, the cases taking turns."""
    cases = [Case("none", ""), Case("query", ""), Case("sequence", "cold")]
    cases += [Case(way, tier) for tier in ("warm", "hot") for way in CACHED]
    if chosen.ways:
        cases = [case for case in cases if case.way in ("none", *chosen.ways.split(","))]
    many = chosen.documents
    margin = chosen.margin
    with tempfile.TemporaryDirectory() as place:
        fill(model, Path(place) / "store", size, chosen.documents, storage)
        found: dict[str, list[Taken]] = {case.name: [] for case in cases}
        with opened(model, place, 0) as warm, opened(model, place, MEMORY) as hot:
            engines = {"": warm, "warm": warm, "hot": hot}
            for turn in range(WARMUPS + chosen.repeats):
                for case in cases:
                    slow = case.way in ("none", "query")
                    if slow and turn >= min(WARMUPS, 1) + chosen.fresh_repeats:
                        continue
                    if case.tier == "cold":
                        taken = cold(model, place, question, many, margin)
                    else:
                        taken = ask(engines[case.tier], question, case.way, many, margin)
                    if turn >= (1 if slow else WARMUPS):
                        found[case.name].append(taken)
        return found


def fill(model: GritLM, place: Path, size: int, documents: int, storage: str) -> None:
    """A store of documents of exactly ``size / documents`` tokens each, and other passages."""
    each = size // documents
    with RagEngine.open(
        place, model, cutting=ChunkingOptions(max_tokens=each), storage=storage
    ) as engine:
        long = [
            {
                "id": f"long-{n}",
                "text": words(model, each - header(model), skip=n * each),
                "metadata": {"asked": True},
            }
            for n in range(documents)
        ]
        engine.add(long)
        others = passages_with_titles()
        engine.add(
            [{"id": row["id"], "text": row["text"], "metadata": {"asked": False}} for row in others]
        )


def opened(model: GritLM, place: str, memory: int) -> RagEngine:
    return RagEngine.open(Path(place) / "store", model, memory_bytes=memory, read_only=True)


def cold(model: GritLM, place: str, question: str, documents: int, margin: float | None) -> Answer:
    """Answer with a new engine, after the files were dropped from the page cache."""
    for path in (Path(place) / "store" / "kv").rglob("*.kv"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    with opened(model, place, 0) as engine:
        engine.retrieve(question, top_k=1)  # LanceDB opens its files, which is not measured
        return ask(engine, question, "sequence", documents, margin)


def ask(
    engine: RagEngine, question: str, way: str, documents: int, margin: float | None = None
) -> Taken:
    alone = way in ("sequence", "token")
    started = time.process_time()
    answer = engine.answer(
        question,
        top_k=documents,
        mode="doc" if alone else way,
        fusion=way if alone else "joint",
        margin=margin,
        filter={"asked": True},
        max_new_tokens=1,
    )
    return Taken(answer, 1000 * (time.process_time() - started))


def words(model: GritLM, tokens: int, skip: int = 0) -> str:
    """Return natural text of the given number of tokens."""
    text = " ".join(row["text"] for row in endless(skip, tokens))
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    made = model.tokenizer.decode(ids[skip : skip + tokens])
    while len(model.tokenizer(made, add_special_tokens=False)["input_ids"]) > tokens:
        made = made.rsplit(" ", 1)[0]  # a truncated word may have more tokens than before
    return made


def endless(skip: int, tokens: int) -> Iterator[dict[str, str]]:
    rows = passages_with_titles()
    for number in range(1 + (skip + tokens) // 20):
        yield rows[number % len(rows)]


def header(model: GritLM) -> int:
    ids = model.tokenizer(gritlm_instruction())["input_ids"]
    return len(ids) + 2


def first_token_ms(answers: Sequence[Taken]) -> list[float]:
    return [each.answer.trace.milliseconds["first_token"] for each in answers]


def median_ms(answers: Sequence[Taken]) -> float:
    return statistics.median(first_token_ms(answers))


def line(name: str, answers: Sequence[Taken], rows: dict[str, list[Taken]]) -> list[str]:
    taken = first_token_ms(answers)
    trace = answers[-1].answer.trace
    least_cpu = {way: min(each.cpu_ms for each in of_way) for way, of_way in rows.items()}
    return [
        name,
        str(trace.tokens_prefilled + trace.tokens_selecting),
        str(trace.tokens_recomputed),
        str(trace.tokens_reused),
        f"{least_cpu[name]:.0f}",
        f"{least_cpu['none'] / least_cpu[name]:.1f}x",
        f"{min(taken):.0f}",
        f"{median_ms(answers):.0f}",
        f"{part_of(taken, 0.95):.0f}",
        f"{median_ms(rows['none']) / median_ms(answers):.1f}x",
    ]


def plot(path: Path, sizes: Sequence[int], curves: dict[str, list[float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, milliseconds in curves.items():
        axes.plot(sizes, milliseconds, marker="o", label=name)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="tokens of the documents",
        ylabel="milliseconds to the first token",
        xticks=sizes,
        xticklabels=sizes,
    )
    axes.minorticks_off()  # their labels would stand on ours
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    print(path)


if __name__ == "__main__":
    main()
