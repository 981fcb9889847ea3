"""Prefix trees of contexts and continuations, which compute a shared context once.

A tree is a context (its trunk) followed by a branch for each continuation. The last token of a
continuation is predicted but never read, so continuations that differ only in it (the letters of a
multiple choice) share a branch.

Shapes: T tokens of all trees of a batch, S positions whose predictions are wanted, N predicted
tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gritlm.lm.attention.block_mask import windowed
from gritlm.lm.unified import UnifiedLM

Ids = tuple[int, ...]
Pair = tuple[Ids, Ids]

_ATTENTION_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class PrefixTree:
    """A context with its continuations.

    Attributes:
        trunk: token ids of the context.
        branches: continuations without their last token -> the last tokens.
    """

    trunk: Ids
    branches: dict[Ids, list[int]]

    @property
    def ids(self) -> list[int]:
        """Token ids that the model reads: the trunk, followed by the branches."""
        return [*self.trunk, *(token for branch in self.branches for token in branch)]

    @property
    def pairs(self) -> list[Pair]:
        """Pairs of context and continuation, in the order of the branches."""
        return [
            (self.trunk, (*branch, last))
            for branch, lasts in self.branches.items()
            for last in lasts
        ]


def build_trees(pairs: Iterable[Pair], *, together: bool) -> list[PrefixTree]:
    """Return trees that hold each distinct pair once.

    Args:
        pairs: token ids of contexts and continuations.
        together: put all continuations of a context into the same tree; if False, each branch
            gets a tree.
    """
    trees: dict[tuple[Ids, Ids | None], PrefixTree] = {}
    for trunk, continuation in dict.fromkeys(pairs):
        branch = continuation[:-1]
        tree = trees.setdefault((trunk, None if together else branch), PrefixTree(trunk, {}))
        tree.branches.setdefault(branch, []).append(continuation[-1])
    return list(trees.values())


def can_branch(lm: UnifiedLM) -> bool:
    """Return whether the model accepts our masks: all layers use attention of transformers."""
    kinds = set(getattr(lm.config, "layer_types", None) or ())
    plain = lm.config._attn_implementation in ("sdpa", "eager")
    return lm.packs and plain and kinds <= _ATTENTION_LAYERS


@dataclass(frozen=True)
class PrefixBatch:
    """Trees concatenated into a single row of tokens.

    Attributes:
        ids_T: token ids.
        position_T: position of each token in its text.
        tree_T: number of the tree of each token.
        branch_T: number of the branch of each token; 0 for the trunk.
        keep_S: positions whose next tokens are predicted.
        row_N: index into ``keep_S`` of each predicted token.
        target_N: id of each predicted token.
        pair_N: number of the pair of each predicted token.
    """

    ids_T: Tensor
    position_T: Tensor
    tree_T: Tensor
    branch_T: Tensor
    keep_S: Tensor
    row_N: Tensor
    target_N: Tensor
    pair_N: Tensor

    @property
    def branches(self) -> bool:
        """Whether the batch holds more than one text."""
        return bool(self.tree_T.max()) or bool(self.branch_T.max() > 1)


def batch(trees: Sequence[PrefixTree], device: torch.device) -> PrefixBatch:
    """Return trees as tensors; pairs are numbered in the order of ``trees`` and their ``pairs``."""
    tokens: list[tuple[int, int, int, int]] = []
    keep: list[int] = []
    targets: list[tuple[int, int, int]] = []
    pair = 0
    for number, tree in enumerate(trees):
        tokens += [(token, at, number, 0) for at, token in enumerate(tree.trunk)]
        last = len(tokens) - 1
        for which, (branch, lasts) in enumerate(tree.branches.items(), 1):
            begin = len(tokens)
            start = len(tree.trunk)
            tokens += [(token, start + at, number, which) for at, token in enumerate(branch)]
            rows = range(len(keep), len(keep) + 1 + len(branch))
            keep += [last, *range(begin, len(tokens))]
            for end in lasts:
                targets += [(*found, pair) for found in zip(rows, (*branch, end), strict=True)]
                pair += 1
    ids_T, position_T, tree_T, branch_T = torch.tensor(tokens, device=device).unbind(dim=1)
    row_N, target_N, pair_N = torch.tensor(targets, device=device).unbind(dim=1)
    keep_S = torch.tensor(keep, device=device)
    return PrefixBatch(ids_T, position_T, tree_T, branch_T, keep_S, row_N, target_N, pair_N)


def masks(batch: PrefixBatch, lm: UnifiedLM) -> Any:
    """Return the attention masks, in which a token sees its own text up to itself.

    The shape is (1, 1, T, T); models with several types of layers get a mask for each type.
    """
    place_T = torch.arange(len(batch.ids_T), device=batch.ids_T.device)
    branch_T1 = batch.branch_T[:, None]
    seen_TT = batch.tree_T[:, None] == batch.tree_T
    seen_TT &= place_T[:, None] >= place_T
    seen_TT &= (batch.branch_T == 0) | (branch_T1 == batch.branch_T)
    ahead_TT = batch.position_T[:, None] - batch.position_T
    return windowed(seen_TT[None], lambda size: (seen_TT & (ahead_TT < size))[None], lm.decoder)
