"""Speed and memory of adding ten thousand passages to a store, then of searches over them.

    python -m benchmarks.rag.index DATA [--model FOLDER] [--passages 10000] [--max-tokens 128]
                                   [--storage int8] [--disk-gb 4] [--searches 200]

DATA has ``twowiki-corpus`` and ``medquad``. Ten lines report passages per second since the last
line, memory of the process, and bytes of key/value blocks on disk. The disk budget is smaller than
the size of all blocks, so that eviction is measured too. At the end, searches are compared with
exact searches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import psutil
from benchmarks.common import machine, part_of, table

from gritlm import GritLM
from gritlm.rag import workspace
from gritlm.rag.engine import RagEngine
from gritlm.rag.identity import maker_of
from gritlm.rag.index.index import Index
from gritlm.rag.ingest.ingest import ChunkingOptions

TOP_K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--passages", type=int, default=10_000)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--storage", default="int8")
    parser.add_argument("--disk-gb", type=float, default=4.0)
    parser.add_argument("--searches", type=int, default=200)
    chosen = parser.parse_args()
    model = GritLM(chosen.model)
    print(
        f"{machine()}, {model.dtype}, passages of at most {chosen.max_tokens} tokens, blocks as "
        f"{chosen.storage}, at most {chosen.disk_gb:g} GB of them\n"
    )
    with (
        tempfile.TemporaryDirectory() as place,
        RagEngine.open(
            Path(place) / "store",
            model,
            cutting=ChunkingOptions(chosen.max_tokens),
            storage=chosen.storage,
            disk_bytes=int(chosen.disk_gb * 1e9),
        ) as engine,
    ):
        rows = list(filled(engine, documents(chosen.data), chosen.passages))
        print(table(("passages", "a second", "memory MB", "blocks", "blocks GB"), rows) + "\n")
        exact = Index.open(
            Path(place) / "store" / workspace.PASSAGES, maker_of(model), exact_below=sys.maxsize
        )
        searched(engine, exact, chosen.searches)


def filled(
    engine: RagEngine, found: Iterator[dict[str, str]], most: int
) -> Iterator[tuple[object, ...]]:
    """A line every tenth of the way."""
    process = psutil.Process()
    step = most // 10
    before = 0
    started = time.perf_counter()
    batch = []
    for document in found:
        batch.append(document)
        if len(batch) < 64:
            continue
        engine.add(batch)
        batch = []
        now = len(engine.index)
        if now - before >= step:
            seconds = time.perf_counter() - started
            stats = engine.store.stats()
            yield (
                now,
                f"{(now - before) / seconds:.1f}",
                process.memory_info().rss // 10**6,
                stats.blocks,
                f"{engine.store.nbytes / 1e9:.2f}",
            )
            before = now
            started = time.perf_counter()
        if now >= most:
            return


def searched(engine: RagEngine, exact: Index, count: int) -> None:
    """Milliseconds and recall of searches with the vectors of stored passages."""
    vectors = engine.model.encode(
        [passage.text for passage, _ in zip(engine.index.passages(), range(count), strict=False)]
    )
    as_served, found = timed(engine.index, vectors)
    one_by_one, nearest = timed(exact, vectors)
    recall = statistics.fmean(len(a & b) / len(b) for a, b in zip(found, nearest, strict=True))
    print(f"search over {len(exact)} passages, {len(vectors)} times, the best ten\n")
    print(
        table(
            ("", "median ms", "p95 ms", "recall"),
            [("as served", *as_served, f"{100 * recall:.1f}"), ("exact", *one_by_one, "100")],
        )
    )


def timed(index: Index, vectors: Iterable[np.ndarray]) -> tuple[tuple[str, str], list[set[str]]]:
    """Median and p95 in milliseconds, and the ids that each search found."""
    taken = []
    found = []
    for vector_D in vectors:
        started = time.perf_counter()
        hits = index.search(vector_D, top_k=TOP_K)
        taken.append(1000 * (time.perf_counter() - started))
        found.append({hit.passage.id for hit in hits})
    return (f"{statistics.median(taken):.1f}", f"{part_of(taken, 0.95):.1f}"), found


def documents(data: Path) -> Iterator[dict[str, str]]:
    """Wikipedia passages, then answers of MedQuAD."""
    path = data / "twowiki-corpus" / "reproduce" / "dataset" / "2wikimultihopqa_corpus.json"
    for number, row in enumerate(json.loads(path.read_text(encoding="utf-8"))):
        yield {"id": f"wiki-{number}", "title": row["title"], "text": row["text"]}
    with tarfile.open(data / "medquad" / "medquad.tar.gz") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".xml") else None
            if file is None:
                continue
            for number, pair in enumerate(ElementTree.parse(file).iter("QAPair")):
                text = (pair.findtext("Answer") or "").strip()
                if text:
                    title = (pair.findtext("Question") or "").strip()
                    yield {"id": f"{member.name}-{number}", "title": title, "text": text}


if __name__ == "__main__":
    main()
