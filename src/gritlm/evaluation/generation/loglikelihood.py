"""Log-likelihoods of continuations, in batches under a token budget.

Shapes: T tokens of a batch, S positions whose predictions are wanted, N predicted tokens, P pairs,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from gritlm.evaluation.generation import shared_prefixes
from gritlm.evaluation.generation.shared_prefixes import Pair, PrefixTree
from gritlm.evaluation.memory import BatchSizeReducer
from gritlm.lm.encoder import batches
from gritlm.lm.tokens import Prompt
from gritlm.lm.unified import UnifiedLM

Score = tuple[float, bool]

# Tokens of a batch. Each sees a mask over all of them, so there is no use for very many.
TOKEN_BUDGET = {"cpu": 512, "mps": 2048, "cuda": 4096}


def scores(
    lm: UnifiedLM,
    pairs: Sequence[Pair],
    *,
    budget: int | None = None,
    halver: BatchSizeReducer | None = None,
) -> Iterator[tuple[Pair, Score]]:
    """For each different pair: the log-likelihood of its continuation, and whether it is greedy.

    They come batch by batch, the largest first.

    Args:
        pairs: ids of contexts and continuations, neither of them empty.
        budget: tokens read at once; None for what suits the device.
    """
    if budget is None:
        budget = TOKEN_BUDGET.get(lm.device.type, TOKEN_BUDGET["cpu"])
    halver = halver or BatchSizeReducer()
    branching = shared_prefixes.can_branch(lm)
    grown = shared_prefixes.grown(pairs, together=branching)
    sizes = [Prompt(tree.ids) for tree in grown]
    for rows in batches(sizes, len(grown) if branching else 1, budget):
        chosen = [grown[row] for row in rows]
        for tree, found in zip(chosen, halver.run(lambda b: _read(lm, b), chosen), strict=True):
            yield from zip(tree.pairs, found, strict=True)


@torch.inference_mode()
def _read(lm: UnifiedLM, chosen: Sequence[PrefixTree]) -> list[list[Score]]:
    """Scores of each tree's pairs."""
    batch = shared_prefixes.batch(chosen, lm.device)
    several = {}
    if batch.branches:
        mask = shared_prefixes.masks(batch, lm)
        several = {"attention_mask": mask, "position_ids": batch.position_T[None]}
    logits_SV = (
        lm.causal(batch.ids_T[None], use_cache=False, logits_to_keep=batch.keep_S, **several)
        .logits[0]
        .float()
    )
    told_N = logits_SV[batch.row_N, batch.target_N] - logits_SV.logsumexp(dim=-1)[batch.row_N]
    greedy_N = logits_SV.argmax(dim=-1)[batch.row_N] == batch.target_N
    count = int(batch.pair_N[-1]) + 1
    pair_N = batch.pair_N.cpu()
    sum_P = torch.zeros(count, dtype=torch.float64).index_add(0, pair_N, told_N.double().cpu())
    missed_P = torch.zeros(count).index_add(0, pair_N, (~greedy_N).float().cpu())
    found = iter(list(zip(sum_P.tolist(), (missed_P == 0).tolist(), strict=True)))
    return [[next(found) for _ in tree.pairs] for tree in chosen]
