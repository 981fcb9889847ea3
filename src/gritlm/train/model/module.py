"""Trained module: decoder, LM head and projection behind one ``forward``.

DDP and FSDP act on ``forward``, so all objectives go through it: ``embed``, ``write``, ``score``.

Shapes: B rows, L positions, D size of a vector, N supervised tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils.rnn import pad_sequence

from gritlm.lm.attention.packed import BOTH
from gritlm.lm.encoder import span_mask
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.media.senses import Senses
from gritlm.lm.tokens import Prompt
from gritlm.lm.unified import unpack
from gritlm.lm.vectors import POOLING, normalise
from gritlm.train.data.packing import PackedBatch
from gritlm.train.data.rag_samples import without_blocks
from gritlm.train.model import heads, hidden_states, media_states
from gritlm.train.model.towers import KeptFeatures, anchored
from gritlm.train.objectives import losses
from gritlm.train.objectives.chunked_loss import Head


@dataclass(frozen=True)
class Weights:
    """Weights of the loss terms of a generative micro-batch.

    Attributes:
        token_N: weight of each supervised token.
        kl: weight of the KL divergence from the reference; 0 for no reference.
        own: whether the reference is the model itself without blocks; else the starting model.
        router: weight of the routers' auxiliary loss.
    """

    token_N: Tensor
    kl: float = 0.0
    own: bool = False
    router: float = 0.0


class ReferenceModel(nn.Module):
    """Causal LM without gradient: the starting model, as the reference of the KL divergence.

    Args:
        model: causal LM of transformers.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.requires_grad_(False).eval()

    def forward(self, rows: PackedBatch) -> Tensor:
        """Return the states of generative rows (B, L, D).

        Args:
            rows: the batch.
        """
        return hidden_states.generative_states(self.model.base_model, rows)


class Trainee(nn.Module):
    """Causal LM of transformers, with or without PEFT adapters, and an optional projection.

    Attributes:
        settings: how the model embeds and chats.
        autocast: dtype of matrix products; None: the dtype of the weights.
    """

    def __init__(
        self,
        model: Any,
        settings: ModelSettings,
        projection: nn.Linear | None = None,
        *,
        autocast: torch.dtype | None = None,
        reference: ReferenceModel | None = None,
        senses: Senses | None = None,
    ) -> None:
        """Combine model and projection to one module.

        Args:
            model: causal LM of transformers, or a PEFT model around it.
            settings: how the model embeds and chats.
            projection: linear layer between states and pooling; None for none.
            autocast: dtype of matrix products; None: the dtype of the weights.
            reference: copy of the starting model, for the KL divergence. With adapters it is not
                needed: without them the model is the starting model.
            senses: towers by which the model reads images and sound; None for text only.
        """
        super().__init__()
        self.model = model
        self.projection = projection
        self.settings = settings
        self.autocast = autocast
        self.pool = POOLING[settings.pooling_method]
        self._references = [reference]  # in a list: torch must not register its parameters
        self.senses = senses
        self.towers = nn.Module() if senses is None else senses.module

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

    @property
    def trains_towers(self) -> bool:
        """Whether a parameter of the towers or their projectors is trained."""
        return any(p.requires_grad for p in self.towers.parameters())

    def train(self, mode: bool = True) -> Trainee:
        """Set the mode; towers and projectors are always in evaluation mode."""
        super().train(mode)
        self.towers.eval()
        return self

    def keep_features(self) -> None:
        """Keep the features of images and sounds, if no parameter of the towers is trained."""
        if self.senses is not None and not self.trains_towers:
            self.senses = KeptFeatures(self.senses)

    @property
    def reference(self) -> Any:
        """The copy of the starting model; None without one."""
        return self._references[0]

    def refer_to(self, reference: ReferenceModel) -> None:
        """Set the copy of the starting model.

        Args:
            reference: the copy, possibly sharded.
        """
        self._references[0] = reference

    def forward(self, job: str, *args: Any) -> Any:
        """Call ``embed``, ``write`` or ``score`` under autocast.

        Args:
            job: ``embed``, ``write`` or ``score``.
            *args: arguments of that method.
        """
        jobs: dict[str, Callable[..., Any]] = {
            "embed": self.embed,
            "write": self.write,
            "score": self.score,
        }
        # Casts of a pass without graph must not be reused in a pass with graph.
        with self.casting(cached=torch.is_grad_enabled()):
            return jobs[job](*args)

    def casting(self, *, cached: bool = True) -> torch.autocast:
        """Return the autocast context; around a whole step, weights are cast only once."""
        return torch.autocast(
            self.device.type,
            dtype=self.autocast or torch.bfloat16,
            enabled=self.autocast is not None,
            cache_enabled=cached,
        )

    def embed(self, prompts: Sequence[Prompt]) -> Tensor:
        """Return the vectors of prompts (B, D), float32."""
        if isinstance(self.reference, FSDPModule):
            self.reference.reshard()  # its LM head stays whole between the passes that read it
        hidden_BLD = self._read(prompts)
        if self.projection is not None:
            hidden_BLD = self.projection(hidden_BLD)
        pooled_BL = span_mask([prompt.pooled for prompt in prompts], hidden_BLD)
        vector_BD = anchored(self.pool(hidden_BLD, pooled_BL), self.towers)
        return normalise(vector_BD) if self.settings.normalized else vector_BD

    def _read(self, prompts: Sequence[Prompt]) -> Tensor:
        """Return the states (B, L, D); arbitrary after the end of a text."""
        if any(prompt.media for prompt in prompts):
            causal = self.settings.embeds_causally
            return media_states.prompt_states(self.decoder, self.senses, prompts, causal=causal)
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
        """Return the weighted loss of a generative micro-batch and its parts without gradient.

        Args:
            rows: the micro-batch.
            weights: weights of the loss terms.
        """
        reference_ND = self._reference(rows, weights) if weights.kl else None
        hidden_BLD, router_logits = self._generative(rows, wanted=bool(weights.router))
        total, kl = self._next_token(hidden_BLD, rows, weights, reference_ND)
        parts = {"kl": kl, "cross_entropy": total.detach() - weights.kl * kl}
        if weights.router:
            router_loss = heads.router_loss(self.causal, router_logits, rows.real_BL)
            parts["router"] = router_loss.detach()
            total = total + weights.router * router_loss
        return anchored(total, self.towers), parts

    def _generative(self, rows: PackedBatch, *, wanted: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the states of generative rows, and each router's logits if wanted.

        A model with senses gets a mask for texts too: by three-dimensional positions, transformers
        does not keep the samples of a row apart.
        """
        if self.senses is None or rows.seen_BLL is not None:
            return hidden_states.generative_states_and_routers(self.decoder, rows, wanted=wanted)
        arguments = media_states.generative_arguments(self.decoder, self.senses, rows)
        extra = {"output_router_logits": True} if wanted else {}
        output = self.decoder(use_cache=False, **arguments, **extra)
        return output.last_hidden_state, output.router_logits if wanted else ()

    def score(self, rows: PackedBatch) -> Tensor:
        """Return the mean log-likelihood per token in the loss of each row (B,), float32.

        Args:
            rows: a sample in each row, with at least one token in the loss.
        """
        hidden_BLD = hidden_states.generative_states(self.decoder, rows)
        return losses.mean_log_likelihood(hidden_BLD, heads.head_of(self.causal), rows.labels_BL)

    def _next_token(
        self, hidden_BLD: Tensor, rows: PackedBatch, weights: Weights, reference_ND: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the loss with gradient, and the divergence without."""
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
        if self.reference is not None:
            return heads.head_of(self.reference.model)
        return heads.head_of(self.causal, adapted=False)

    def _reference(self, rows: PackedBatch, weights: Weights) -> Tensor:
        """Return the states of the reference model at the supervised positions (N, D)."""
        with torch.no_grad(), self.casting(cached=False):
            return self._reference_states(rows, weights)

    def _reference_states(self, rows: PackedBatch, weights: Weights) -> Tensor:
        if weights.own:
            hidden_BLD = hidden_states.generative_states(self.decoder, without_blocks(rows))
        elif self.reference is not None:
            hidden_BLD = self.reference(rows)
        else:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            with self.model.disable_adapter():
                hidden_BLD = hidden_states.generative_states(self.decoder, rows)
            self.model.requires_grad_(
                False
            )  # PEFT makes all adapters trainable after disable_adapter
            for parameter in trained:
                parameter.requires_grad_(True)
        return losses.supervised_states(hidden_BLD, rows.labels_BL)
