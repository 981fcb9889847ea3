"""Plan of the attention of a pass: which queries attend to which keys, made once for all layers.

Shapes: B rows, Q queries, T keys, C columns (keys) with hidden entries; N texts of up to L tokens.

Most queries of a pass attend to most keys. So a tile of queries has a range of keys, and additive
masks for the few columns of it in which some entries are hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import torch
from torch import Tensor

TILE = 256  # maximum queries of a tile: its scores should stay in the cache of the processor
_ALIGNED = 32  # rows of scores of such a multiple are faster in softmax
_FEW_QUERIES = 8  # for as many, the padding costs more than it saves
_SHORT = 64  # texts of up to so many tokens are computed side by side


@dataclass(frozen=True)
class HiddenColumns:
    """Additive mask (B or 1, 1, 1, Q, C) of some columns of a tile."""

    columns: slice
    added: Tensor


@dataclass(frozen=True)
class Tile:
    """Queries that attend to the same range of keys.

    Attributes:
        queries: range of queries in the pass.
        keys: range of keys.
        width: number of columns of the scores: that of the keys, or more for alignment.
        hidden: masks of the columns with hidden entries; padding is hidden too.
        texts: places of the tokens of several texts, computed side by side; None for one text.
    """

    queries: slice
    keys: slice
    width: int
    hidden: tuple[HiddenColumns, ...]
    texts: SideBySide | None = None


@dataclass(frozen=True)
class SideBySide:
    """Places of the tokens of N texts, which are the queries and the keys of a tile.

    Attributes:
        token_NL: token at each place of each text; any token at the places of the padding.
        place_T: place of each token in the flattened ``token_NL``.
    """

    token_NL: Tensor
    place_T: Tensor


def lowest(dtype: torch.dtype) -> float:
    """Return the term that hides an entry: a row in which all are hidden stays finite."""
    return torch.finfo(dtype).min / 2


def causal_tiles(
    queries: int, held: int, window: int | None, dtype: torch.dtype, *, first: int = 0
) -> list[Tile]:
    """Return the tiles of causal attention.

    Args:
        queries: number of queries, which are the last keys.
        held: number of keys before them.
        window: sliding window in tokens; None for no window.
        dtype: number format of the scores.
        first: index of the first query that is computed.
    """
    return [
        _causal_tile(start, min(start + TILE, queries), held, window, dtype)
        for start in range(first, queries, TILE)
    ]


def _causal_tile(start: int, stop: int, held: int, window: int | None, dtype: torch.dtype) -> Tile:
    begin = 0 if window is None else max(0, held + start + 1 - window)
    end = held + stop
    width = _width(end - begin, stop - start)
    position_Q1 = torch.arange(held + start, end)[:, None]
    hidden = []
    # The first query sees the columns before its own, unless a window hides them from later ones.
    own = held + start - begin
    parts = [slice(own, width)] if stop - start > 1 or width > end - begin else []
    if window is not None and (far := min(own, end - window - begin)) > 0:
        parts.append(slice(0, far))
    for columns in parts:
        column_C = torch.arange(begin + columns.start, begin + columns.stop)
        hidden_QC = column_C > position_Q1
        if window is not None:
            hidden_QC |= column_C <= position_Q1 - window
        hidden.append(_columns(columns, hidden_QC[None], dtype))
    return Tile(slice(start, stop), slice(begin, end), width, tuple(hidden))


def seen_by_window(queries: int, held: int, window: int | None) -> Tensor:
    """Return a mask (Q, T) that is True where a query attends to a key, causally.

    Args:
        queries: number of queries, which are the last keys.
        held: number of keys before them.
        window: sliding window in tokens; None for no window.
    """
    ahead_QT = torch.arange(held, held + queries)[:, None] - torch.arange(held + queries)
    return (ahead_QT >= 0) if window is None else (ahead_QT >= 0) & (ahead_QT < window)


def masked_tiles(seen_BQT: Tensor, dtype: torch.dtype, *, first: int = 0) -> list[Tile]:
    """Return the tiles of attention with a mask.

    Args:
        seen_BQT: True where a query attends to a key.
        dtype: number format of the scores.
        first: index of the first query that is computed.
    """
    queries = seen_BQT.shape[1]
    return [
        _masked_tile(slice(start, min(start + TILE, queries)), seen_BQT, dtype)
        for start in range(first, queries, TILE)
    ]


def _masked_tile(rows: slice, seen_BQT: Tensor, dtype: torch.dtype) -> Tile:
    seen_BQT = seen_BQT[:, rows]
    partly_T = ~seen_BQT.flatten(0, 1).all(dim=0)
    size = seen_BQT.shape[2]
    width = _width(size, seen_BQT.shape[1])
    hidden = []
    for columns in _two_ranges(partly_T.nonzero()[:, 0].tolist(), size):
        hidden.append(_columns(columns, ~seen_BQT[:, :, columns], dtype))
    if width > size:
        hidden.append(_columns(slice(size, width), torch.ones(1, 1, width - size).bool(), dtype))
    return Tile(rows, slice(0, size), width, tuple(hidden))


def _two_ranges(columns: Sequence[int], size: int) -> list[slice]:
    """Return at most two ranges that hold all columns, with the longest gap between them."""
    if not columns:
        return []
    edges = [-1, *columns, size]
    gaps = [after - before for before, after in pairwise(edges)]
    cut = gaps.index(max(gaps))
    parts = (columns[:cut], columns[cut:])
    return [slice(part[0], part[-1] + 1) for part in parts if part]


def text_tiles(lengths: Sequence[int], dtype: torch.dtype) -> list[Tile]:
    """Return the tiles of bidirectional attention within each of several concatenated texts.

    The width of the scores of a text depends on its length alone, so its states do not depend on
    the other texts. Short texts in a row with the same width are a single tile.
    """
    tiles = []
    end = 0
    for width, same in groupby(lengths, _aligned):
        group = list(same)
        if width <= _SHORT and len(group) > 1:
            tiles.append(_short_texts(group, end, width, dtype))
            end += sum(group)
            continue
        for length in group:
            begin = end
            end += length
            padding = _padding(torch.tensor([length]), width, dtype)
            tiles += [
                Tile(slice(start, min(start + TILE, end)), slice(begin, end), width, padding)
                for start in range(begin, end, TILE)
            ]
    return tiles


def _short_texts(lengths: Sequence[int], begin: int, width: int, dtype: torch.dtype) -> Tile:
    """Return the tile of several short texts, of which the first begins at a token."""
    length_N = torch.tensor(lengths)
    end_N = length_N.cumsum(0)
    place_L = torch.arange(max(lengths))
    real_NL = place_L < length_N[:, None]
    token_NL = ((end_N - length_N)[:, None] + place_L).clamp_max_(end_N[-1] - 1)
    range_ = slice(begin, begin + int(end_N[-1]))
    texts = SideBySide(token_NL, real_NL.flatten().nonzero()[:, 0])
    return Tile(range_, range_, width, _padding(length_N, width, dtype), texts)


def _padding(length_N: Tensor, width: int, dtype: torch.dtype) -> tuple[HiddenColumns, ...]:
    """Return the masks of the columns behind the shortest of N texts; none without padding."""
    shortest = int(length_N.min())
    if shortest == width:
        return ()
    behind_N1C = torch.arange(shortest, width) >= length_N[:, None, None]
    return (_columns(slice(shortest, width), behind_N1C, dtype),)


def causal_text_tiles(lengths: Sequence[int], window: int | None, dtype: torch.dtype) -> list[Tile]:
    """Return the tiles of causal attention within each of several concatenated texts.

    Args:
        lengths: number of tokens of each text.
        window: sliding window in tokens; None for no window.
        dtype: number format of the scores.
    """
    tiles = []
    begin = 0
    for length in lengths:
        for tile in causal_tiles(length, 0, window, dtype):
            queries = slice(begin + tile.queries.start, begin + tile.queries.stop)
            keys = slice(begin + tile.keys.start, begin + tile.keys.stop)
            tiles.append(replace(tile, queries=queries, keys=keys))
        begin += length
    return tiles


def _width(keys: int, queries: int) -> int:
    return keys if queries <= _FEW_QUERIES else _aligned(keys)


def _aligned(keys: int) -> int:
    return -(-keys // _ALIGNED) * _ALIGNED


def _columns(columns: slice, hidden_BQC: Tensor, dtype: torch.dtype) -> HiddenColumns:
    added = torch.zeros(hidden_BQC.shape, dtype=dtype).masked_fill_(hidden_BQC, lowest(dtype))
    return HiddenColumns(columns, added[:, None, None])
