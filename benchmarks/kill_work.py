"""The work that benchmarks/scale_kills.py kills: bulk embedding and bulk indexing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq
from tests import tiny

ROWS = 3000
PART_BYTES = 600
MODEL = {"dtype": "float32", "device": "cpu"}
BLOCK_BOUND = 1e-4


class Work(Protocol):
    """A command that can be killed, its acknowledged results, and their comparison.

    Attributes:
        name: name of the work.
        worker: name of the actor that computes.
        between: new results between two kills.
    """

    name: str
    worker: str
    between: int

    def command(self, output: Path, address: str) -> list[str]:
        """Return the arguments of gritlm."""

    def acknowledged(self, output: Path) -> dict[str, Any]:
        """Return the results that a killed run has acknowledged."""

    def compare(self, output: Path, seen: dict[str, Any]) -> None:
        """Compare the results of a run that ended; exit where they differ."""


def rows() -> list[dict[str, str]]:
    return [
        {"id": f"d{n:05d}", "text": f"Passage {n}: {tiny.SENTENCES[n % 5]}"} for n in range(ROWS)
    ]


class Prepared:
    """A model and a file of rows."""

    def __init__(self, folder: Path) -> None:
        self.model = tiny.folder(folder / "model")
        self.rows = rows()
        self.source = folder / "rows.jsonl"
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        self.source.write_text(lines, encoding="utf-8")

    def options(self, address: str, workers: str) -> list[str]:
        return [
            *("--quiet", "--ray", "--address", address, "--workers", workers),
            *("--model", str(self.model), "--dtype", "float32", "--device", "cpu"),
        ]


class EmbeddingWork:
    """`gritlm embed --ray`; its results are the files of parts."""

    name = "embed"
    worker = "VectorWorker"
    between = 3

    def __init__(self, made: Prepared) -> None:
        from gritlm import GritLM, gritlm_instruction

        self._made = made
        model = GritLM(made.model, mode="embedding", **MODEL)
        texts = [row["text"] for row in made.rows]
        self._expected = model.encode(
            texts, instruction=gritlm_instruction(""), show_progress_bar=False
        )

    def command(self, output: Path, address: str) -> list[str]:
        return [
            *("embed", "--input", str(self._made.source), "--output", str(output)),
            *("--part-bytes", str(PART_BYTES), *self._made.options(address, "1:2")),
        ]

    def acknowledged(self, output: Path) -> dict[str, Any]:
        staging = output.with_name(f"{output.name}.staging")
        return _parts(staging) or _parts(output)

    def compare(self, output: Path, seen: dict[str, Any]) -> None:
        final = _parts(output)
        if any(final[name] != changed for name, changed in seen.items()):
            raise SystemExit("a committed part was written again")
        table = pq.read_table(output).sort_by("id")
        if table["id"].to_pylist() != [row["id"] for row in self._made.rows]:
            raise SystemExit(f"{output}: {table.num_rows} rows of {ROWS}, or other ids")
        found = np.array(table["embedding"].to_pylist(), dtype=np.float32)
        off = float(np.abs(found - self._expected).max())
        if off > 1e-5:
            raise SystemExit(f"{output}: vectors differ by {off}")


def _parts(folder: Path) -> dict[str, Any]:
    """Return names and times of the parts in a folder."""
    found = {}
    for path in folder.glob("part-*.parquet"):
        try:
            found[path.name] = path.stat().st_mtime_ns
        except FileNotFoundError:  # the folder was renamed meanwhile
            return {}
    return found


class IndexingWork:
    """`gritlm index --ray --shared-blocks`; its results are the documents in the table."""

    name = "index"
    worker = "PassageWorker"
    between = 1

    def __init__(self, made: Prepared) -> None:
        from gritlm import GritLM
        from gritlm.rag import ChunkingOptions, RagEngine

        self._made = made
        self._model = GritLM(made.model, **MODEL)
        self._alone = made.source.with_name("alone")
        cutting = ChunkingOptions(max_tokens=48)
        with RagEngine.open(self._alone, self._model, cutting=cutting) as engine:
            engine.add(made.source)
        self._expected = self._content(self._alone)

    def command(self, output: Path, address: str) -> list[str]:
        return [
            *("index", str(self._made.source), "--to", str(output), "--max-tokens", "48"),
            *("--shared-blocks", f"{output}.blocks", *self._made.options(address, "2")),
        ]

    def acknowledged(self, output: Path) -> dict[str, Any]:
        from gritlm.errors import GritLMError

        try:
            return dict.fromkeys(self._table(output)["id"].to_pylist())
        except GritLMError:  # there is no table yet
            return {}

    def compare(self, output: Path, seen: dict[str, Any]) -> None:
        ids, vectors_ND, blocks = self._content(output)
        expected_ids, expected_ND, expected = self._expected
        if set(seen) - set(ids):
            raise SystemExit(f"{output}: acknowledged documents are lost")
        if ids != expected_ids:
            raise SystemExit(f"{output}: {len(ids)} passages of {len(expected_ids)}, or other ids")
        off = float(np.abs(vectors_ND - expected_ND).max())
        if off > 1e-5:
            raise SystemExit(f"{output}: vectors differ by {off}")
        missing = sum(block is None for block in blocks)
        pairs = [pair for pair in zip(blocks, expected, strict=True) if pair[0] is not None]
        worst = max(float(np.abs(found - wanted).max()) for found, wanted in pairs)
        if missing or worst > BLOCK_BOUND:
            raise SystemExit(f"{output}: {missing} blocks are missing, others differ by {worst}")
        print(f"  {len(ids)} passages, vectors within {off:.1e}, blocks within {worst:.1e}")

    def _content(self, place: Path) -> tuple[list[str], np.ndarray, list[Any]]:
        """Return ids and vectors in the order of the table, and the blocks."""
        from gritlm.rag import RagEngine
        from gritlm.rag.plan import PromptAssembler
        from gritlm.scale import shared_blocks

        shared = None if place == self._alone else shared_blocks(f"{place}.blocks")
        table = self._table(place)
        texts = [
            f"{title} {text}".strip()
            for title, text in zip(
                table["title"].to_pylist(), table["text"].to_pylist(), strict=True
            )
        ]
        with RagEngine.open(place, self._model, read_only=True, shared_blocks=shared) as engine:
            store = engine.store
            keys = [
                store.key(ids, causal=True)
                for ids in PromptAssembler(self._model).passage_ids(texts)
            ]
            found = [store.fetch(key) for key in keys]
            blocks = [None if each is None else each.block.data.clone().numpy() for each in found]
            print(
                f"  fetched from disk {store.stats().from_disk}, "
                f"from shared storage {store.stats().from_shared}"
            )
        vectors_ND = np.array(table["vector"].to_pylist(), dtype=np.float32)
        return table["id"].to_pylist(), vectors_ND, blocks

    @staticmethod
    def _table(place: Path) -> Any:
        from gritlm.rag.index.table import open_table

        return open_table(str(place / "index"), None, create=False).to_arrow()


WORK: dict[str, Any] = {each.name: each for each in (EmbeddingWork, IndexingWork)}


def python(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "gritlm", *arguments]
