"""Hard negatives for embedding rows, found by a small encoder.

    python recipes/default/negatives.py FILE [FILE ...] --teacher models/minilm

FILE is a JSONL file of prepare.py; it is rewritten with up to ``--count`` negatives more in each
row: passages of the same file that are similar to the query and clearly less so than its positive.
`gritlm mine` does the same with a model of gritlm, and takes longer.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer, util
from texts import fingerprint

NEAREST = 30  # passages to choose from
MARGIN = 0.95  # share of the positive's similarity that a negative may reach


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--teacher", required=True, help="a sentence-transformers model")
    parser.add_argument("--count", type=int, default=6, help="most new negatives of a row")
    chosen = parser.parse_args()
    teacher = SentenceTransformer(chosen.teacher, device="cpu", trust_remote_code=False)
    for path in chosen.files:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found = mined(rows, teacher, chosen.count)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
        sys.stdout.write(f"{sum(len(row['neg']) for row in found):7} negatives in {path.name}\n")


def mined(rows: list[dict[str, Any]], teacher: Any, count: int) -> list[dict[str, Any]]:
    """Return the rows with negatives added, the most similar first.

    Args:
        rows: embedding rows with ``[instruction, text]`` for queries and passages.
        teacher: encoder that says how similar two texts are.
        count: most new negatives of a row.
    """
    passages = list(dict.fromkeys(row["pos"][0][1] for row in rows))
    place = {text: at for at, text in enumerate(passages)}
    passage_PD = teacher.encode(passages, convert_to_tensor=True, normalize_embeddings=True)
    queries = [row["query"][1] for row in rows]
    query_QD = teacher.encode(queries, convert_to_tensor=True, normalize_embeddings=True)
    hits = util.semantic_search(query_QD, passage_PD, top_k=NEAREST)
    answering: dict[str, set[str]] = {}  # passages that answer a query, in any row
    for row in rows:
        answering.setdefault(fingerprint(row["query"][1]), set()).update(p[1] for p in row["pos"])
    for number, row in enumerate(rows):
        right = answering[fingerprint(row["query"][1])]
        known = {text for _, text in row["neg"]}
        limit = MARGIN * float(query_QD[number] @ passage_PD[place[row["pos"][0][1]]])
        near = [passages[hit["corpus_id"]] for hit in hits[number] if hit["score"] < limit]
        new = [text for text in near if text not in right and text not in known][:count]
        row["neg"] = [[row["pos"][0][0], text] for text in new] + row["neg"]
    return rows


if __name__ == "__main__":
    main()
