"""Reuse check: comparison of moved and joined KV blocks with one pass over the same prompt.

Shapes: V vocabulary.

The reference is one forward pass over the whole prompt with a mask that keeps the blocks apart. The
results differ for a model whose keys are moved wrongly or whose attention does not follow the mask;
nothing is reused with such a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from gritlm.errors import ModelError
from gritlm.lm.attention.block_mask import as_mask, lay_out, seen
from gritlm.lm.generator import prefix_cache
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.media.senses import MediaTokens
from gritlm.lm.unified import UnifiedLM

# Of the spread (standard deviation) of the logits. Half precision rounds at every layer: the
# default model in bfloat16 has 0.06 (causal blocks 0.05), with unmoved keys 0.15 (0.11).
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.09, torch.float16: 0.03}
# Single prompts in bfloat16 may round to 0.9; a wrong model is wrong for every prompt. The quartile
# of eight prompts comes as near to the tolerance as 0.073.
_PROMPTS = 16
_PROMPTS_EXACT = 1
_LENGTHS = (24, 17, 9)  # tokens of the two parts and of the tail of a prompt


@dataclass(frozen=True)
class ReuseCheck:
    """Result of a reuse check.

    Attributes:
        difference: standard deviation of the differences of logits, divided by that of the logits,
            so that a common offset, which changes no answer, does not count; the lower quartile
            over some prompts.
        tolerance: largest accepted difference.
    """

    difference: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance


def check(
    lm: UnifiedLM,
    *,
    bos: Sequence[int],
    causal: bool = False,
    checkpoint: Callable[[], None] | None = None,
) -> ReuseCheck:
    """Compare both ways on prompts of two parts and a tail, with random tokens.

    Args:
        lm: the model.
        bos: token ids at the beginning of every part.
        causal: kind of the blocks.
        checkpoint: checkpoint callback, called after each prompt.

    Returns:
        The result; its difference is infinite for a model whose keys cannot be moved.
    """
    tolerance = TOLERANCE.get(lm.dtype, 1e-3)
    if lm.rope() is None:
        return ReuseCheck(math.inf, tolerance)
    prompts = _PROMPTS_EXACT if lm.dtype == torch.float32 else _PROMPTS
    found = []
    for seed in range(prompts):
        found.append(_difference(lm, bos, causal, Random(seed)))
        if checkpoint is not None:
            checkpoint()
    return ReuseCheck(sorted(found)[prompts // 4], tolerance)


def require(parity: ReuseCheck, *, name: str) -> None:
    """Require that the reuse check holds.

    Raises:
        ModelError: with the measured difference, when it does not hold.
    """
    if math.isinf(parity.difference):
        raise ModelError(
            f"{name}: its keys cannot be moved (it has no rotary positions, or such as depend on "
            "the length of the text), so nothing can be reused; use mode='none' with this model"
        )
    if not parity.holds:
        raise ModelError(
            f"{name}: reused key/value state gives other logits than one pass over the same "
            f"prompt: they differ by {parity.difference:.3g} of their spread, at most "
            f"{parity.tolerance:g} is accepted; use mode='none' with this model"
        )


@torch.inference_mode()
def reused_logits(
    lm: UnifiedLM, parts: Sequence[Sequence[int]], tail: Sequence[int], *, bos: int, causal: bool
) -> Tensor:
    """Return the logits after ``tail`` on top of KV blocks (V,), in float32."""
    blocks = blocks_of(lm, parts, causal=causal)
    placed = [block[bos:] if number else block for number, block in enumerate(blocks)]
    cache = prefix_cache(lm, placed, room=len(tail))
    return lm.logits(torch.tensor([tail], device=lm.device), cache=cache, keep=1)[0, -1].float()


@torch.inference_mode()
def block_masked_logits(
    lm: UnifiedLM,
    parts: Sequence[Sequence[int]],
    tail: Sequence[int],
    *,
    bos: int,
    causal: bool,
    again: int = 0,
) -> Tensor:
    """Return the same logits from one masked pass over the whole prompt (V,), in float32.

    Args:
        lm: the model.
        parts: token ids of each part, with BOS.
        tail: token ids that follow the parts.
        bos: number of BOS tokens, which only the first part keeps.
        causal: kind of the blocks.
        again: number of first tokens of each part but the first that are recomputed.
    """
    laid = lay_out(parts, tail, bos=bos, causal=causal, again=again)
    seen_LL = seen(laid).to(lm.device)
    logits_BSV = lm.causal(
        torch.tensor([laid.ids], device=lm.device),
        attention_mask=as_mask(seen_LL[None], lm.decoder),
        position_ids=torch.tensor([laid.positions], device=lm.device),
        use_cache=False,
        logits_to_keep=1,
    ).logits
    return logits_BSV[0, -1].float()


@torch.inference_mode()
def blocks_of(
    lm: UnifiedLM,
    parts: Sequence[Sequence[int]],
    *,
    causal: bool,
    pause: Callable[[], None] | None = None,
    media: Sequence[MediaTokens] = (),
) -> list[KVBlock]:
    """Compute the KV block of each part in a pass of its own.

    Args:
        lm: the model.
        parts: token ids of each part.
        causal: kind of the blocks.
        pause: checkpoint callback between the layers of bidirectional blocks, for models whose
            attention can be replaced.
        media: images and sounds of the parts.
    """
    rows = [torch.tensor(ids, device=lm.device) for ids in parts]
    if causal:
        return [lm.causal_block(ids_T, media=media) for ids_T in rows]
    sizes = [len(ids_T) for ids_T in rows]
    return lm.hidden_and_blocks(torch.cat(rows), sizes, pause=pause, media=media)[1]


def _difference(lm: UnifiedLM, bos: Sequence[int], causal: bool, random: Random) -> float:
    first, second, tail = (
        [random.randrange(int(lm.config.vocab_size)) for _ in range(size)] for size in _LENGTHS
    )
    parts = [[*bos, *first], [*bos, *second]]
    exact_V = block_masked_logits(lm, parts, tail, bos=len(bos), causal=causal)
    reused_V = reused_logits(lm, parts, tail, bos=len(bos), causal=causal)
    return float((reused_V - exact_V).std() / exact_V.std())
