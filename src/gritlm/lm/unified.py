"""UnifiedLM: one set of weights, a bidirectional view to read and a causal view to write.

Shapes: B rows, L positions, T tokens of all rows without padding, D hidden size, V vocabulary,
S positions whose logits are kept.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from gritlm.errors import CacheMismatchError, ModelError
from gritlm.lm.attention import views
from gritlm.lm.attention.dispatch import FastViews
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.kv.cache import fixed, preallocated, recorded, recording
from gritlm.lm.kv.rope import RopeTable, rope_table

log = logging.getLogger(__name__)

_ATTENTION_LAYERS = {"full_attention", "sliding_attention"}


class UnifiedLM:
    """Two module shells over the tensors of one Hugging Face decoder.

    Safe to call from several threads: neither view is ever changed by a call.

    Attributes:
        causal: the model handed in, untouched.
        compiled: whether one-token steps run as a compiled graph (CUDA graphs on a GPU).
        bidirectional: a shell of its decoder in which each token sees its whole text.
    """

    def __init__(self, model: Any, *, compiled: bool = False) -> None:
        self.causal: Any = model.eval()
        self.decoder: Any = model.base_model
        self.bidirectional = views.bidirectional(self.decoder)
        self.compiled = compiled
        self.packs = views.can_pack(self.decoder)
        self._lock = threading.Lock()
        self._fast = FastViews(self.causal, self.bidirectional, compiled=compiled)
        self._fingerprint: tuple[int, str] | None = None
        self._rope: tuple[RopeTable | None] | None = None

    @property
    def config(self) -> Any:
        return self.decoder.config

    @property
    def device(self) -> torch.device:
        embedding = self.decoder.get_input_embeddings()
        here: torch.device = embedding.weight.device
        if here.type != "meta":
            return here
        return torch.device(embedding._hf_hook.execution_device)  # offloaded by accelerate

    @property
    def dtype(self) -> torch.dtype:
        return self.causal.dtype

    @property
    def has_head(self) -> bool:
        """Whether it can write: False for a model loaded without its LM head."""
        return self.causal is not self.decoder

    @property
    def max_positions(self) -> int | None:
        """Longest text in tokens that the model was built for, where its config tells."""
        return getattr(self.config, "max_position_embeddings", None)

    def kv_bytes_per_token(self) -> int:
        """Bytes that the keys and values of one token take."""
        config = self.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * size * self.dtype.itemsize)

    def hidden(self, ids_BL: Tensor, mask_BL: Tensor | None = None, *, causal: bool) -> Tensor:
        """States after the final norm -> (B, L, D); arbitrary where the mask is 0.

        Args:
            ids_BL: token ids, padded on the right (bidirectionally on either side).
            mask_BL: 1 for real tokens; None when there is no padding.
            causal: each token sees those before it, else its whole text.
        """
        if causal:
            return self.decoder(ids_BL, attention_mask=mask_BL, use_cache=False).last_hidden_state
        if not self.packs:
            view = self.bidirectional
            return view(ids_BL, attention_mask=mask_BL, use_cache=False).last_hidden_state
        real_BL = torch.ones_like(ids_BL, dtype=torch.bool) if mask_BL is None else mask_BL.bool()
        lengths = real_BL.sum(dim=1).tolist()
        hidden_TD = self._packed(self.bidirectional, ids_BL[real_BL], lengths, None)
        hidden_BLD = hidden_TD.new_zeros(*ids_BL.shape, hidden_TD.shape[-1])
        hidden_BLD[real_BL] = hidden_TD
        return hidden_BLD

    def hidden_packed(
        self, ids_T: Tensor, lengths: list[int], *, pause: Callable[[], None] | None = None
    ) -> Tensor:
        """Bidirectional states of texts that stand one behind the other -> (T, D).

        Args:
            pause: called between layers, where the model's attention can be exchanged.
        """
        view = self._fast.bidirectional(len(ids_T))
        return self._packed(view, ids_T, lengths, None, pause)

    def hidden_and_blocks(
        self, ids_T: Tensor, lengths: list[int], *, pause: Callable[[], None] | None = None
    ) -> tuple[Tensor, list[KVBlock]]:
        """As :meth:`hidden_packed`, and the key/value block of each text."""
        cache = recording(self.config.num_hidden_layers)
        view = self._fast.bidirectional(len(ids_T))
        hidden_TD = self._packed(view, ids_T, lengths, cache, pause)
        return hidden_TD, self._blocks(recorded(cache), ids_T, lengths, causal=False)

    def causal_block(self, ids_T: Tensor) -> KVBlock:
        """Key/value block of one text read causally."""
        cache = recording(self.config.num_hidden_layers)
        self.decoder(ids_T[None], past_key_values=cache, use_cache=True)
        return self._blocks(recorded(cache), ids_T, [len(ids_T)], causal=True)[0]

    def logits(
        self,
        ids_BL: Tensor,
        mask_BL: Tensor | None = None,
        *,
        cache: Cache | None = None,
        keep: int = 0,
    ) -> Tensor:
        """Next-token logits of the causal view -> (B, S, V).

        Args:
            mask_BL: 1 for real tokens, the cached ones included.
            cache: continued and extended in place.
            keep: how many last positions get logits; 0 for all.
        """
        tokens = 1 if ids_BL.shape[1] == 1 else ids_BL.numel()
        view = self.causal if torch.is_grad_enabled() else self.causal_for(tokens)
        return view(
            ids_BL,
            attention_mask=mask_BL,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=keep,
        ).logits

    def causal_for(self, tokens: int) -> Any:
        """The causal view that reads so many tokens of a text fastest; for inference only."""
        return self._fast.causal(tokens)

    def new_cache(self, capacity: int) -> Cache:
        """An empty cache for ``capacity`` tokens, of the kind that :attr:`decoding` works on."""
        if set(getattr(self.config, "layer_types", None) or ()) - _ATTENTION_LAYERS:
            return DynamicCache(config=self.config)  # with states that are no keys and values
        if self.compiled:
            return fixed(self.config, capacity)
        return preallocated(self.config.num_hidden_layers, capacity)

    @property
    def decoding(self) -> Any:
        """The causal view for steps of one token: compiled, or with packed weights, or as it is."""
        return self._fast.decoding

    @property
    def stepping(self) -> Any:
        """The causal view for steps of several rows, see :mod:`gritlm.lm.attention.ragged`."""
        return self._fast.stepping

    @property
    def fingerprint(self) -> str:
        """Identifies weights, number format and adapter: the maker of a KV block."""
        with self._lock:
            version = self._fast.version()
            if self._fingerprint is None or self._fingerprint[0] != version:
                self._fingerprint = version, _fingerprint(self.decoder)
            return self._fingerprint[1]

    def require_own(self, block: KVBlock) -> None:
        """Refuse key/value state that other weights made.

        Raises:
            CacheMismatchError: naming both.
        """
        if block.model != self.fingerprint:
            raise CacheMismatchError(
                f"this KV block was made by model {block.model}, this model is "
                f"{self.fingerprint}; encode the text again with this model"
            )

    def _packed(
        self,
        view: Any,
        ids_T: Tensor,
        lengths: list[int],
        cache: Cache | None,
        pause: Callable[[], None] | None = None,
    ) -> Tensor:
        if not self.packs:
            return self._one_by_one(ids_T, lengths, cache)
        position_T = torch.cat([torch.arange(n, device=ids_T.device) for n in lengths])
        output = view(
            ids_T[None],
            position_ids=position_T[None],
            past_key_values=cache,
            use_cache=cache is not None,
            lengths=lengths,
            pause=pause,
        )
        return output.last_hidden_state[0]

    def _one_by_one(self, ids_T: Tensor, lengths: list[int], cache: Cache | None) -> Tensor:
        """For models whose attention cannot be exchanged: padded, without a cache."""
        if cache is not None:
            raise ModelError(
                f"{type(self.causal).__name__} has its attention built in: no KV blocks from it"
            )
        rows = ids_T.split(lengths)
        ids_BL = pad_sequence(list(rows), batch_first=True)
        mask_BL = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        hidden_BLD = self.hidden(ids_BL, mask_BL, causal=False)
        return hidden_BLD[mask_BL.bool()]

    def _blocks(
        self, data: Tensor, ids_T: Tensor, lengths: list[int], *, causal: bool
    ) -> list[KVBlock]:
        ids = ids_T.cpu()
        rope = self.rope()
        blocks = []
        start = 0
        for length in lengths:
            here = slice(start, start + length)
            position_T = torch.arange(length)
            blocks.append(
                KVBlock(
                    data=data[:, :, :, here].clone(),
                    token_ids=ids[here].clone(),
                    stored_T=position_T,
                    position_T=position_T,
                    causal=causal,
                    model=self.fingerprint,
                    rope=rope,
                )
            )
            start += length
        return blocks

    def rope(self) -> RopeTable | None:
        """Table to move keys with; None where they cannot be moved."""
        if self._rope is None:
            try:
                self._rope = (rope_table(self.decoder, self.device),)
            except ModelError as error:
                log.info("KV blocks of this model cannot be moved: %s", error)
                self._rope = (None,)
        return self._rope[0]

    def layer_devices(self) -> list[torch.device]:
        """Where each layer's keys and values belong."""
        homes = [next(layer.parameters()).device for layer in self.decoder.layers]
        return [self.device if home.type == "meta" else home for home in homes]


def unpack(packed_TD: Tensor, lengths: list[int]) -> Tensor:
    """(T, D) -> (B, L, D), padded with zeros on the right to the longest text."""
    return pad_sequence(list(packed_TD.split(lengths)), batch_first=True)


def _fingerprint(decoder: PreTrainedModel) -> str:
    """Hash of every parameter's name, shape, format and up to 64 values spread over it."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in decoder.named_parameters():
        flat = tensor.detach().flatten()
        step = max(1, flat.numel() // 64)
        values = flat[::step][:64].to("cpu", torch.float32) if flat.device.type != "meta" else None
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(b"" if values is None else values.numpy().tobytes())
    return digest.hexdigest()
