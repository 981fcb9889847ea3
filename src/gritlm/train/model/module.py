"""What is trained: decoder, LM head and projection as one module with one way in.

DDP and FSDP act on a module's ``forward``, so both jobs go through it: ``embed`` and ``write``.

Shapes: B rows, L positions, D size of a vector, N supervised tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gritlm.lm.attention.packed import BOTH
from gritlm.lm.encoder import span_mask
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.pooling import POOLING, normalise
from gritlm.lm.tokens import Prompt
from gritlm.lm.unified import unpack
from gritlm.train.data.packing import PackedBatch
from gritlm.train.data.rag_samples import without_blocks
from gritlm.train.model import heads, hidden_states, routers
from gritlm.train.objectives import losses
from gritlm.train.objectives.chunked_loss import Head


@dataclass(frozen=True)
class Weights:
    """What each part of a generative micro-batch counts.

    Attributes:
        token_N: of each supervised token's cross-entropy.
        kl: of each supervised token's divergence from the reference; 0 for no reference.
        own: the reference is the model itself reading without blocks, else the starting model.
        router: of the router's auxiliary loss.
    """

    token_N: Tensor
    kl: float = 0.0
    own: bool = False
    router: float = 0.0


class Trainee(nn.Module):
    """A causal LM of transformers (with PEFT adapters around or not) and a projection.

    Attributes:
        settings: how it embeds and chats.
        autocast: the format of matrix products; None for that of the weights.
    """

    def __init__(
        self,
        model: Any,
        settings: ModelSettings,
        projection: nn.Linear | None = None,
        *,
        autocast: torch.dtype | None = None,
        frozen: Any = None,
    ) -> None:
        """
        Args:
            frozen: a copy of the starting model, for the divergence from it. Adapters need none:
                without them the model is its starting point.
        """
        super().__init__()
        self.model = model
        self.projection = projection
        self.settings = settings
        self.autocast = autocast
        self.pool = POOLING[settings.pooling_method]
        self._frozen = [frozen]  # in a list: no parameters of this module

    @property
    def causal(self) -> Any:
        """The model of transformers, without the PEFT wrapper."""
        return self.model.get_base_model() if self.adapted else self.model

    @property
    def adapted(self) -> bool:
        return hasattr(self.model, "peft_config") and hasattr(self.model, "get_base_model")

    @property
    def decoder(self) -> Any:
        return self.causal.base_model

    @property
    def device(self) -> torch.device:
        return self.decoder.get_input_embeddings().weight.device

    def move_frozen(self, device: torch.device) -> None:
        """The copy of the starting model follows the weights that are trained."""
        if self._frozen[0] is not None:
            self._frozen[0].to(device)

    def forward(self, job: str, *args: Any) -> Any:
        """``embed`` or ``write``, under autocast."""
        jobs: dict[str, Callable[..., Any]] = {"embed": self.embed, "write": self.write}
        # Weights that are cast without a graph must not be taken for those with one.
        with self.casting(cached=torch.is_grad_enabled()):
            return jobs[job](*args)

    def casting(self, *, cached: bool = True) -> torch.autocast:
        """Autocast as this module wants it; around a whole step, weights are cast once."""
        return torch.autocast(
            self.device.type,
            dtype=self.autocast or torch.bfloat16,
            enabled=self.autocast is not None,
            cache_enabled=cached,
        )

    def embed(self, prompts: Sequence[Prompt]) -> Tensor:
        """Vectors (B, D), float32."""
        hidden_BLD = self._read(prompts)
        if self.projection is not None:
            hidden_BLD = self.projection(hidden_BLD)
        pooled_BL = span_mask([prompt.pooled for prompt in prompts], hidden_BLD)
        vector_BD = self.pool(hidden_BLD, pooled_BL)
        return normalise(vector_BD) if self.settings.normalized else vector_BD

    def _read(self, prompts: Sequence[Prompt]) -> Tensor:
        """States (B, L, D), of any kind behind the end of a text."""
        unpadded = self.decoder.config._attn_implementation == BOTH
        if unpadded and not self.settings.embeds_causally:
            ids_T = torch.tensor([i for prompt in prompts for i in prompt.ids], device=self.device)
            lengths = [len(prompt.ids) for prompt in prompts]
            return unpack(hidden_states.hidden_packed(self.decoder, ids_T, lengths), lengths)
        rows = [torch.tensor(prompt.ids) for prompt in prompts]
        ids_BL = pad_sequence(rows, batch_first=True).to(self.device)
        mask_BL = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return hidden_states.hidden(
            self.decoder,
            ids_BL,
            None if mask_BL.all() else mask_BL.to(self.device),
            causal=self.settings.embeds_causally,
        )

    def write(self, rows: PackedBatch, weights: Weights) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss of a micro-batch, and its parts without gradient."""
        reference_ND = self._reference(rows, weights) if weights.kl else None
        hidden_BLD, routed = hidden_states.routed(self.decoder, rows, wanted=bool(weights.router))
        total, kl = self._next_token(hidden_BLD, rows, weights, reference_ND)
        parts = {"kl": kl, "cross_entropy": total.detach() - weights.kl * kl}
        if weights.router:
            extra = routers.balance(self.causal, routed, rows.real_BL)
            parts["router"] = extra.detach()
            total = total + weights.router * extra
        return total, parts

    def _next_token(
        self, hidden_BLD: Tensor, rows: PackedBatch, weights: Weights, reference_ND: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the loss with its gradient, and the divergence alone."""
        labels_BL = rows.labels_BL
        weight_N = weights.token_N
        head = heads.head_of(self.causal)
        if reference_ND is None:
            loss = losses.chunked_next_token(hidden_BLD, head, labels_BL, weight_N=weight_N)
            return loss, torch.zeros_like(loss)
        return losses.chunked_with_kl(
            hidden_BLD,
            head,
            labels_BL,
            weight_N=weight_N,
            kl_weight=weights.kl,
            reference=(reference_ND, self._reference_head(weights)),
        )

    def _reference_head(self, weights: Weights) -> Head:
        if weights.own:
            return heads.head_of(self.causal)
        if self._frozen[0] is not None:
            return heads.head_of(self._frozen[0])
        return heads.head_of(self.causal, adapted=False)

    def _reference(self, rows: PackedBatch, weights: Weights) -> Tensor:
        """States (N, D) at the supervised positions of what this model shall stay close to."""
        with torch.no_grad(), self.casting(cached=False):
            return self._reference_states(rows, weights)

    def _reference_states(self, rows: PackedBatch, weights: Weights) -> Tensor:
        if weights.own:
            hidden_BLD = hidden_states.written(self.decoder, without_blocks(rows))
        elif self._frozen[0] is not None:
            hidden_BLD = hidden_states.written(self._frozen[0].base_model, rows)
        else:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            with self.model.disable_adapter():
                hidden_BLD = hidden_states.written(self.decoder, rows)
            self.model.requires_grad_(False)  # PEFT lets all adapters be trained afterwards
            for parameter in trained:
                parameter.requires_grad_(True)
        return losses.supervised_states(hidden_BLD, rows.labels_BL)
