"""``gritlm search``: the texts of a file ranked for a query."""

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
    """One line of the ranking."""

    rank: int
    score: float
    id: str | int
    text: str


def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    file: Annotated[
        str,
        typer.Argument(help="Texts by lines, JSON lines, a JSON array, CSV or TSV; - for stdin."),
    ],
    *,
    top_k: Annotated[int, typer.Option(min=1, help="How many results.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    embeddings: Annotated[
        str | None,
        typer.Option(help="The file's vectors, as 'gritlm embed --output F.npy' wrote them."),
    ] = None,
    read: ReadOptions,
    encode: EncodeFlags,
    model: ModelOptions,
) -> None:
    """Rank the texts of a file by how well they answer a query."""
    files.from_arguments([query])
    items = files.read_items(file, input_format=read.input_format, field=read.field)
    stored_ND = _load(embeddings, rows=len(items)) if embeddings else None
    instruction = encode.header()
    lm = model.load(mode="embedding")
    scores_N = _scores(lm, query, items, stored_ND, instruction=instruction, encode=encode)
    _show(_ranked(items, scores_N, top_k), as_json=as_json)


def _load(path: str, *, rows: int) -> np.ndarray:
    """Stored vectors, one for each of ``rows`` texts.

    Raises:
        InputError: when the file cannot be read or does not fit the texts.
    """
    import numpy as np

    try:
        stored_ND = np.load(Path(path), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"cannot read {path}: {error}; expected what 'gritlm embed --output F.npy' wrote"
        ) from error
    if not isinstance(stored_ND, np.ndarray) or stored_ND.ndim != 2 or stored_ND.dtype.kind != "f":
        raise InputError(
            f"{path} holds {_describe(stored_ND)}; expected a matrix of floating-point numbers, "
            "one row a text"
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
    from gritlm.prompts import gritlm_instruction

    if stored_ND is None:
        stored_ND = lm.encode(
            [item.text for item in items],
            instruction=gritlm_instruction(),
            show_progress_bar=logs.progress(),
            **encode.limits(),
        )
    wanted = stored_ND.shape[1]
    if wanted > lm.embedding_dimension:
        raise InputError(
            f"the stored vectors have {wanted} dimensions, this model's have "
            f"{lm.embedding_dimension}; use the model that made them"
        )
    shorter = wanted if wanted < lm.embedding_dimension else None
    query_D = lm.encode(
        query,
        instruction=instruction,
        truncate_dim=shorter,
        show_progress_bar=False,
        **encode.limits(),
    )
    return lm.similarity(query_D, stored_ND).flatten().numpy()


def _ranked(items: list[files.Item], scores_N: np.ndarray, top_k: int) -> list[RankedText]:
    """The best texts first; of equals, the earlier one."""
    best = (-scores_N).argsort(kind="stable")[:top_k]
    return [
        RankedText(rank, float(scores_N[row]), _row_id(items[row], int(row)), items[row].text)
        for rank, row in enumerate(best, start=1)
    ]


def _row_id(item: files.Item, row: int) -> str | int:
    """The id a text came with, else its number from 0, as in the output of ``gritlm embed``."""
    return row if item.id is None else item.id


def _show(hits: list[RankedText], *, as_json: bool) -> None:
    if as_json:
        terminal.write("".join(json_line(asdict(hit)) for hit in hits))
    elif terminal.is_terminal():
        _print_table(hits)
    else:
        for hit in hits:
            fields = (str(hit.rank), f"{hit.score:.4f}", _flat(str(hit.id)), _flat(hit.text))
            terminal.write("\t".join(fields) + "\n")


def _flat(text: str) -> str:
    """Without tabs and line ends: here a line is a result, and a tab is the border of a field."""
    return " ".join(text.split())


def _print_table(hits: list[RankedText]) -> None:
    from rich.table import Table

    table = Table("rank", "score", box=None)
    for name in ("id", "text"):
        table.add_column(name, overflow="fold")
    for hit in hits:
        table.add_row(*map(terminal.text, (hit.rank, f"{hit.score:.4f}", hit.id, hit.text)))
    terminal.draw(table)
