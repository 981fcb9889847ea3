"""Log-likelihoods of continuations, computed in batches under a token budget.

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

# Tokens of a batch. The attention mask is quadratic in them, so very large batches do not pay.
TOKEN_BUDGET = {"cpu": 512, "mps": 2048, "cuda": 4096}


def scores(
    lm: UnifiedLM,
    pairs: Sequence[Pair],
    *,
    budget: int | None = None,
    reducer: BatchSizeReducer | None = None,
) -> Iterator[tuple[Pair, Score]]:
    """Yield each distinct pair with the log-likelihood of its continuation, batch by batch.

    The score also holds whether greedy decoding gives the continuation. The largest batches come
    first.

    Args:
        lm: model with its LM head.
        pairs: token ids of contexts and continuations, none of them empty.
        budget: number of tokens in a batch; None for the default of the device.
        reducer: batch size limit to share with other calls; None for a new one.
    """
    if budget is None:
        budget = TOKEN_BUDGET.get(lm.device.type, TOKEN_BUDGET["cpu"])
    reducer = reducer or BatchSizeReducer()
    branching = shared_prefixes.can_branch(lm)
    trees = shared_prefixes.build_trees(pairs, together=branching)
    sizes = [Prompt(tree.ids) for tree in trees]
    for rows in batches(sizes, len(trees) if branching else 1, budget):
        chosen = [trees[row] for row in rows]
        found = reducer.run(lambda batch: _read(lm, batch), chosen)
        for tree, tree_scores in zip(chosen, found, strict=True):
            yield from zip(tree.pairs, tree_scores, strict=True)


@torch.inference_mode()
def _read(lm: UnifiedLM, chosen: Sequence[PrefixTree]) -> list[list[Score]]:
    """Return the scores of the pairs of each tree."""
    batch = shared_prefixes.batch(chosen, lm.device)
    options = {}
    if batch.branches:
        mask = shared_prefixes.masks(batch, lm)
        options = {"attention_mask": mask, "position_ids": batch.position_T[None]}
    logits_SV = (
        lm.causal(batch.ids_T[None], use_cache=False, logits_to_keep=batch.keep_S, **options)
        .logits[0]
        .float()
    )
    logprob_N = logits_SV[batch.row_N, batch.target_N] - logits_SV.logsumexp(dim=-1)[batch.row_N]
    greedy_N = logits_SV.argmax(dim=-1)[batch.row_N] == batch.target_N
    count = int(batch.pair_N[-1]) + 1
    pair_N = batch.pair_N.cpu()
    sum_P = torch.zeros(count, dtype=torch.float64).index_add(0, pair_N, logprob_N.double().cpu())
    missed_P = torch.zeros(count).index_add(0, pair_N, (~greedy_N).float().cpu())
    found = iter(list(zip(sum_P.tolist(), (missed_P == 0).tolist(), strict=True)))
    return [[next(found) for _ in tree.pairs] for tree in chosen]
