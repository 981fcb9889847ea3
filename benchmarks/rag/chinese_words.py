"""Strings of Chinese texts found by the search by words, with pairs of characters and without.

Usage: python -m benchmarks.rag.chinese_words FILE... [--strings 300] [--seed 0]

Random strings of two to four characters are drawn from the passages of Markdown files; many are no
words. A string is found if a passage among the first five hits has it. Vectors play no part.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
from pathlib import Path

import numpy as np
from lancedb.query import FullTextOperator, MultiMatchQuery

from gritlm.rag.identity import ModelIdentity
from gritlm.rag.index.index import Index
from gritlm.rag.index.table import WORDS, words_query
from gritlm.rag.ingest.chunking import cut
from gritlm.rag.types import Document, Passage

LENGTHS = (2, 3, 4)
CHARACTERS_A_TOKEN = 1.6  # of a tokenizer that knows Chinese
MOST_TOKENS = 256
FIRST = 5
MAKER = ModelIdentity("weights", "digest", "benchmark", None, 8, 16)
RUN = re.compile(r"[\u4e00-\u9fff]{4,}")


def passages(paths: list[Path]) -> dict[str, list[Passage]]:
    """Return the passages of Markdown files by path."""

    def tokens(texts: list[str]) -> list[int]:
        return [int(len(text) / CHARACTERS_A_TOKEN) + 2 for text in texts]

    found = {}
    for path in paths:
        document = Document(str(path), path.read_text(encoding="utf-8"), "", markdown=True)
        found[str(path)] = cut(document, tokens=tokens, max_tokens=MOST_TOKENS)
    return found


def strings(texts: list[str], count: int, length: int, pick: random.Random) -> list[str]:
    """Return random strings of one length from the runs of Chinese characters of texts."""
    runs = [run for text in texts for run in RUN.findall(text)]
    if not runs:
        raise SystemExit("the files have no Chinese text; pass Markdown files with some")
    drawn = []
    for run in pick.choices(runs, k=count):
        start = pick.randrange(len(run) - length + 1)
        drawn.append(run[start : start + length])
    return drawn


def hits(index: Index, words: str, *, pairs: bool) -> list[str]:
    """Return the texts of the first hits for words."""
    plain = MultiMatchQuery(words, list(WORDS), boosts=None, operator=FullTextOperator.OR)
    table = index.table.lance  # type: ignore[attr-defined]
    query = words_query(table, words) if pairs else plain
    return [row["text"] for row in table.search(query, query_type="fts").limit(FIRST).to_list()]


def main() -> None:
    """Print a table of the strings found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--strings", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pick = random.Random(options.seed)
    by_file = passages(options.files)
    texts = [passage.text for found in by_file.values() for passage in found]
    with tempfile.TemporaryDirectory() as folder, Index.open(folder, MAKER) as index:
        for name, found in by_file.items():
            rows = [(passage, np.ones(MAKER.dimension, np.float32)) for passage in found]
            index.add(rows, contents={name: "content"})
        index.optimise()
        print(f"{len(texts)} passages, {sum(map(len, texts))} characters\n")
        print("| characters | strings | words | without hits | in the first | in the first five |")
        print("|---|---|---|---|---|---|")
        for length in LENGTHS:
            drawn = strings(texts, options.strings, length, pick)
            for pairs in (False, True):
                found_by = [(each, hits(index, each, pairs=pairs)) for each in drawn]
                nothing = sum(not found for _, found in found_by)
                first = sum(each in "".join(found[:1]) for each, found in found_by)
                five = sum(any(each in text for text in found) for each, found in found_by)
                kind = "dictionary and pairs" if pairs else "dictionary"
                print(f"| {length} | {len(drawn)} | {kind} | {nothing} | {first} | {five} |")


if __name__ == "__main__":
    main()
