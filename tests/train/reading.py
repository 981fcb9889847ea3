"""Prompts and the way from prompts to vectors, for tests of the embedding half."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gritlm.lm.tokens import Prompt
from gritlm.lm.unified import UnifiedLM, unpack
from gritlm.lm.vectors import mean, normalise


def prompts(count: int, *, seed: int, longest: int = 20, vocabulary: int = 300) -> list[Prompt]:
    """Random texts of different lengths behind a header of two tokens that is not pooled."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        size = int(torch.randint(4, longest, (), generator=generator))
        ids = torch.randint(3, vocabulary, (size,), generator=generator).tolist()
        made.append(Prompt(ids, pooled=(2, size)))
    return made


def padded(prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, L)."""
    rows = [torch.tensor(prompt.ids) for prompt in prompts]
    return (
        pad_sequence(rows, batch_first=True),
        pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
    )


class Reader(torch.nn.Module):
    """Prompts -> vectors of length 1, as a module so that DDP can stand around it."""

    def __init__(self, lm: UnifiedLM) -> None:
        super().__init__()
        self.model = lm.decoder
        self._lm = [lm]

    def forward(self, prompts: Sequence[Prompt]) -> Tensor:
        lengths = [len(prompt.ids) for prompt in prompts]
        ids_T = torch.tensor([i for prompt in prompts for i in prompt.ids], device=self.device)
        hidden_BLD = unpack(self._lm[0].hidden_packed(ids_T, lengths), lengths)
        mask_BL = torch.zeros(hidden_BLD.shape[:2], device=self.device)
        for row, prompt in enumerate(prompts):
            mask_BL[row, slice(*prompt.pooled)] = 1
        return normalise(mean(hidden_BLD, mask_BL))

    @property
    def device(self) -> torch.device:
        return self._lm[0].device

    def gradients(self) -> dict[str, Tensor]:
        """A copy of each gradient; the parameters are left without."""
        found = {
            name: parameter.grad.clone()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        self.zero_grad()
        return found


def distance(ours: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest difference of two sets of gradients, relative to the largest value of each tensor."""
    assert ours.keys() == other.keys()
    assert ours
    return max(
        float((ours[name] - other[name]).abs().max() / other[name].abs().max().clamp_min(1e-12))
        for name in ours
    )
