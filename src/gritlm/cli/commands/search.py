"""``gritlm search``: semantic search in the texts of a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gritlm.cli import files, logs, terminal
from gritlm.cli.options import EncodeFlags, ModelOptions, ReadOptions
from gritlm.cli.output import json_line
from gritlm.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from gritlm import GritLM


@dataclass(frozen=True)
class RankedText:
    """A text with its rank and its cosine similarity to the query."""

    rank: int
    score: float
    id: str | int
    text: str


@dataclass(frozen=True)
class RankingOptions:
    """Length and format of the ranking."""

    top_k: Annotated[int, typer.Option(min=1, help="Number of results.")] = 5
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per line.")] = False


def search(
    query: Annotated[str, typer.Argument(help="The query.")],
    file: Annotated[
        str,
        typer.Argument(
            help="Input file: text lines, JSON lines, a JSON array, CSV or TSV; - for stdin."
        ),
    ],
    *,
    ranking: RankingOptions,
    embeddings: Annotated[
        str | None,
        typer.Option(help="Vectors of the file, written by 'gritlm embed --output F.npy'."),
    ] = None,
    read: ReadOptions,
    encode: EncodeFlags,
    model: ModelOptions,
) -> None:
    """Rank the texts of a file by their similarity to a query."""
    files.from_arguments([query])
    items = files.read_items(file, input_format=read.input_format, field=read.field)
    stored_ND = _load_vectors(embeddings, rows=len(items)) if embeddings else None
    instruction = encode.header()
    lm = model.load(mode="embedding")
    scores_N = _scores(lm, query, items, stored_ND, instruction=instruction, encode=encode)
    _print(_rank(items, scores_N, ranking.top_k), as_json=ranking.as_json)


def _load_vectors(path: str, *, rows: int) -> np.ndarray:
    """Return the stored vectors (N, D) of N = ``rows`` texts, in float32.

    Raises:
        InputError: for a file that cannot be read or does not fit the texts.
    """
    import numpy as np

    try:
        stored_ND = np.load(Path(path), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"cannot read {path}: {error}; expected a file of 'gritlm embed --output F.npy'"
        ) from error
    if not isinstance(stored_ND, np.ndarray) or stored_ND.ndim != 2 or stored_ND.dtype.kind != "f":
        raise InputError(
            f"{path} holds {_describe(stored_ND)}; expected a matrix of floating-point numbers, "
            "one row per text"
        )
    if len(stored_ND) != rows:
        raise InputError(
            f"{path} holds {len(stored_ND)} vectors, the file {rows} texts; embed the file again"
        )
    if not np.isfinite(stored_ND).all():
        raise InputError(f"{path} holds NaN or infinite numbers; embed the file again")
    return stored_ND.astype(np.float32)


def _describe(stored: Any) -> str:
    return f"{stored.dtype} of shape {stored.shape}" if hasattr(stored, "dtype") else "an archive"


def _scores(
    lm: GritLM,
    query: str,
    items: list[files.Item],
    stored_ND: np.ndarray | None,
    *,
    instruction: str,
    encode: EncodeFlags,
) -> np.ndarray:
    """Return the similarity (N,) of the query to N texts; their vectors are computed if not stored.

    Raises:
        InputError: for stored vectors with more dimensions than the model has.
    """
    from gritlm.prompts import gritlm_instruction

    if stored_ND is None:
        stored_ND = lm.encode(
            [item.text for item in items],
            instruction=gritlm_instruction(),
            show_progress_bar=logs.progress(),
            **encode.limits(),
        )
    width = stored_ND.shape[1]
    if width > lm.embedding_dimension:
        raise InputError(
            f"the stored vectors have {width} dimensions, this model's have "
            f"{lm.embedding_dimension}; use the model that made them"
        )
    shorter = width if width < lm.embedding_dimension else None
    query_D = lm.encode(
        query,
        instruction=instruction,
        truncate_dim=shorter,
        show_progress_bar=False,
        **encode.limits(),
    )
    return lm.similarity(query_D, stored_ND).flatten().numpy()


def _rank(items: list[files.Item], scores_N: np.ndarray, top_k: int) -> list[RankedText]:
    """Return the ``top_k`` texts with the highest scores; ties keep the order of the file."""
    best = (-scores_N).argsort(kind="stable")[:top_k]
    return [
        RankedText(rank, float(scores_N[row]), _row_id(items[row], int(row)), items[row].text)
        for rank, row in enumerate(best, start=1)
    ]


def _row_id(item: files.Item, row: int) -> str | int:
    """Return the id of a text, else its row number from 0, as ``gritlm embed`` writes it."""
    return row if item.id is None else item.id


def _print(hits: list[RankedText], *, as_json: bool) -> None:
    """Print the ranking: JSON lines, a table on a terminal, tab-separated fields in a pipe."""
    if as_json:
        terminal.write("".join(json_line(asdict(hit)) for hit in hits))
    elif terminal.is_terminal():
        _print_table(hits)
    else:
        for hit in hits:
            fields = (str(hit.rank), f"{hit.score:.4f}", _flat(str(hit.id)), _flat(hit.text))
            terminal.write("\t".join(fields) + "\n")


def _flat(text: str) -> str:
    """Replace tabs and line ends by spaces: a line is a result, and tabs separate its fields."""
    return " ".join(text.split())


def _print_table(hits: list[RankedText]) -> None:
    from rich.table import Table

    table = Table("rank", "score", box=None)
    for name in ("id", "text"):
        table.add_column(name, overflow="fold")
    for hit in hits:
        table.add_row(*map(terminal.text, (hit.rank, f"{hit.score:.4f}", hit.id, hit.text)))
    terminal.draw(table)
