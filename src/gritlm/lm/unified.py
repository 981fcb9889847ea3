"""UnifiedLM, a decoder with a bidirectional and a causal view of the same weights.

Shapes: B rows, L positions, T tokens of all rows without padding, D hidden size, V vocabulary,
S positions whose logits are kept.

On a CPU, inference runs on views derived from the two: with the lean forward pass, or, for models
that it does not know, with packed weights and grouped heads, which are faster for few tokens
(docs/log.md).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import Cache, DynamicCache

from gritlm.distribution import install_hint
from gritlm.errors import CacheMismatchError, InputError, ModelError, at_least_one
from gritlm.lm import threads
from gritlm.lm.attention import ragged, views
from gritlm.lm.attention.decode_views import adapted_view, compiled_view, decoding_view
from gritlm.lm.compiled import steps as compiled_steps
from gritlm.lm.fingerprint import fingerprint
from gritlm.lm.kv.block import KVBlock
from gritlm.lm.kv.cache import (
    fixed,
    position_offset,
    preallocated,
    recorded,
    recording,
    set_position_offset,
)
from gritlm.lm.kv.rope import RopeTable, rope_table
from gritlm.lm.lean.view import lean_forward_of
from gritlm.lm.media.passes import DecoderInputs, decoder_inputs
from gritlm.lm.media.senses import MediaTokens, Senses
from gritlm.lm.quantization.layers import is_quantized

log = logging.getLogger(__name__)

FEW = 256  # maximum tokens of a text for which packed weights without the lean pass are faster

_ATTENTION_LAYERS = {"full_attention", "sliding_attention"}
_version = attrgetter("_version")  # of a parameter: changes in place


class WeightVersion:
    """Version of a model's weights, which changes with them.

    It notices parameters changed in place, replaced parameters and replaced modules. The modules
    are listed once: to walk the tree at every pass takes five times as long.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._replaced = 0
        self._list()

    def current(self) -> tuple[int, int]:
        """Return the version: the number of replacements, and of changes in place."""
        parameters = self._parameters_now()
        if not self._is_known(parameters):
            self._replaced += 1
            self._list()
            parameters = self._parameters
        return self._replaced, sum(map(_version, parameters))

    def _list(self) -> None:
        modules = list(self._model.modules())
        self._children = [
            (each._modules, tuple(each._modules.values())) for each in modules if each._modules
        ]
        self._owners = [each._parameters for each in modules if each._parameters]
        self._parameters = self._parameters_now()

    def _parameters_now(self) -> list[Any]:
        return [each for owner in self._owners for each in owner.values() if each is not None]

    def _is_known(self, parameters: list[Any]) -> bool:
        return (
            len(parameters) == len(self._parameters)
            and all(map(is_, parameters, self._parameters))
            and all(tuple(now.values()) == before for now, before in self._children)
        )


class UnifiedLM:
    """A Hugging Face decoder with a causal and a bidirectional view of the same tensors.

    It is safe to call from several threads: a call changes neither view.

    Args:
        model: the decoder, with or without its LM head.
        compiled: whether steps of few tokens are compiled: by numba on a CPU, for models of the
            lean pass, else as a graph of torch (CUDA graphs on a GPU).
        base: the model around whose layers ``model`` has plain LoRA; None for other models.
        longest: maximum length of a text in tokens; None for that of the model.
        senses: towers by which the model reads images and sound; None for text only.

    Raises:
        InputError: for a maximum length that the model does not take.

    Attributes:
        causal: the model itself, unchanged.
        compiled: whether one-token steps run as a compiled graph of torch.
        base: as the argument.
        senses: as the argument, or those of ``base``.
        bidirectional: a view of its decoder in which each token attends to its whole text.
    """

    def __init__(
        self,
        model: Any,
        *,
        compiled: bool = False,
        base: UnifiedLM | None = None,
        longest: int | None = None,
        senses: Senses | None = None,
    ) -> None:
        self.causal: Any = model.eval()
        self.decoder: Any = model.base_model
        self._longest: int | None = (
            longest if longest is not None or base is None else base._longest
        )
        if longest is not None:
            _require_length(longest, self.decoder.config)
        self.bidirectional = views.bidirectional(self.decoder)
        self._compiled_steps = compiled and compiled_steps.takes(self.causal)
        self.compiled = compiled and not self._compiled_steps
        if self.compiled and is_quantized(self.causal):
            raise ModelError(
                "compile=True and quantised weights: their steps are compiled by numba, for Llama "
                f"and Mistral alone; {install_hint('compiled')}, or leave compile out"
            )
        if self.compiled and self.causal.device.type == "cpu" and not compiled_steps.has_numba():
            log.warning(
                "compile=True without numba: torch compiles the steps, which takes minutes and "
                "needs a C++ compiler; %s, or leave compile out",
                install_hint("compiled"),
            )
        self.base = base
        self.senses: Senses | None = senses if base is None else base.senses
        self.packs = views.can_pack(self.decoder)
        self._lock = threading.Lock()
        self._views_lock = threading.Lock()
        self._version = WeightVersion(self.causal)
        self._decoding: tuple[object, Any] | None = None  # version of the weights, view
        self._derived_views: dict[str, tuple[Any, Any]] = {}  # by name: decoding view, view
        self._fingerprint: tuple[object, str] | None = None
        self._rope: tuple[RopeTable | None] | None = None

    def without_head(self, longest: int | None) -> UnifiedLM:
        """Return the model without its LM head.

        Args:
            longest: maximum length of a text in tokens; None for that of the model.
        """
        return UnifiedLM(self.decoder, longest=longest, senses=self.senses)

    @property
    def config(self) -> Any:
        return self.decoder.config

    @property
    def device(self) -> torch.device:
        embedding = self.decoder.get_input_embeddings()
        device: torch.device = embedding.weight.device
        if device.type != "meta":
            return device
        return torch.device(embedding._hf_hook.execution_device)  # offloaded by accelerate

    @property
    def dtype(self) -> torch.dtype:
        return self.causal.dtype

    @property
    def has_head(self) -> bool:
        """Whether the model can generate: False if it was loaded without its LM head."""
        return self.causal is not self.decoder

    @property
    def max_positions(self) -> int | None:
        """Maximum length of a text in tokens; None if the configuration does not have it."""
        if self._longest is not None:
            return self._longest
        return getattr(self.config, "max_position_embeddings", None)

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids that the model reads."""
        return int(self.decoder.get_input_embeddings().weight.shape[0])

    def kv_bytes_per_token(self) -> int:
        """Return the size of the keys and values of a token in bytes."""
        config = self.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * size * self.dtype.itemsize)

    def hidden(self, ids_BL: Tensor, mask_BL: Tensor | None = None, *, causal: bool) -> Tensor:
        """Return the states (B, L, D) after the final norm; undefined where the mask is 0.

        Args:
            ids_BL: token ids, padded on the right (bidirectionally on either side).
            mask_BL: 1 for real tokens; None without padding.
            causal: whether a token attends to earlier tokens only, else to its whole text.
        """
        threads.adjust()
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
        self,
        ids_T: Tensor,
        lengths: list[int],
        *,
        pause: Callable[[], None] | None = None,
        media: Sequence[MediaTokens] = (),
    ) -> Tensor:
        """Return the bidirectional states (T, D) of concatenated texts.

        Args:
            ids_T: token ids of all texts, without padding.
            lengths: number of tokens of each text.
            pause: checkpoint callback, called between layers if the model's attention can be
                exchanged.
            media: images and sounds of the texts.
        """
        if media:
            return self._packed_media(ids_T, lengths, media, None, pause)[0]
        view = self._bidirectional_for(len(ids_T))
        return self._packed(view, ids_T, lengths, None, pause)

    def hidden_and_blocks(
        self,
        ids_T: Tensor,
        lengths: list[int],
        *,
        pause: Callable[[], None] | None = None,
        media: Sequence[MediaTokens] = (),
    ) -> tuple[Tensor, list[KVBlock]]:
        """Return the states of :meth:`hidden_packed` and the KV block of each text.

        Args:
            ids_T: token ids of all texts, without padding.
            lengths: number of tokens of each text.
            pause: checkpoint callback, as in :meth:`hidden_packed`.
            media: images and sounds of the texts.
        """
        cache = recording(self.config.num_hidden_layers)
        if media:
            hidden_TD, after = self._packed_media(ids_T, lengths, media, cache, pause)
            return hidden_TD, self._blocks(recorded(cache), ids_T, lengths, after=after)
        view = self._bidirectional_for(len(ids_T))
        hidden_TD = self._packed(view, ids_T, lengths, cache, pause)
        return hidden_TD, self._blocks(recorded(cache), ids_T, lengths)

    def causal_texts(
        self,
        ids_T: Tensor,
        lengths: list[int],
        *,
        get_blocks: bool,
        pause: Callable[[], None] | None = None,
        media: Sequence[MediaTokens] = (),
    ) -> tuple[Tensor, list[KVBlock]]:
        """Return the causal states (T, D) of concatenated texts, and their KV blocks.

        Both come from one pass; for inference only.

        Args:
            ids_T: token ids of all texts, without padding.
            lengths: number of tokens of each text.
            get_blocks: whether the KV blocks are returned, else an empty list.
            pause: checkpoint callback, called between layers of the lean pass.
            media: images and sounds of the texts.
        """
        if media:
            return self._causal_media(ids_T, lengths, media, get_blocks=get_blocks)
        cache = recording(self.config.num_hidden_layers) if get_blocks else None
        real_BL = None
        lean = lean_forward_of(self.causal_for(len(ids_T)))
        if lean is not None:
            hidden_TD = self._concatenated(
                partial(lean.texts, causal=True), ids_T, lengths, cache, pause
            )
        else:
            real_BL = unpack(torch.ones_like(ids_T)[:, None], lengths)[..., 0].bool()
            hidden_BLD = self.decoder(
                unpack(ids_T[:, None], lengths)[..., 0],
                attention_mask=real_BL.long(),
                past_key_values=cache,
                use_cache=cache is not None,
            ).last_hidden_state
            hidden_TD = hidden_BLD[real_BL.to(hidden_BLD.device)]
        if cache is None:
            return hidden_TD, []
        data = recorded(cache, real_BL)
        return hidden_TD, self._blocks(data, ids_T, lengths, causal=True)

    def causal_block(self, ids_T: Tensor, *, media: Sequence[MediaTokens] = ()) -> KVBlock:
        """Return the KV block of a text, computed with causal attention.

        Args:
            ids_T: token ids of the text.
            media: images and sounds of the text.
        """
        if media:
            return self._causal_media(ids_T, [len(ids_T)], media, get_blocks=True)[1][0]
        cache = recording(self.config.num_hidden_layers)
        keep = {"logits_to_keep": 1} if self.has_head else {}
        view = self.causal if torch.is_grad_enabled() else self.causal_for(len(ids_T))
        view(ids_T[None], past_key_values=cache, use_cache=True, **keep)
        return self._blocks(recorded(cache), ids_T, [len(ids_T)], causal=True)[0]

    def logits(
        self,
        ids_BL: Tensor,
        mask_BL: Tensor | None = None,
        *,
        cache: Cache | None = None,
        keep: int = 0,
        media: Sequence[MediaTokens] = (),
    ) -> Tensor:
        """Return the next-token logits (B, S, V) of the causal view.

        Args:
            ids_BL: token ids.
            mask_BL: 1 for real tokens, with a column for each cached token too.
            cache: cache of the tokens before; extended in place.
            keep: number of last positions with logits; 0 for all.
            media: images and sounds of the (only) row.
        """
        if media:
            return self._logits_of_media(ids_BL, media, cache, keep)
        tokens = 1 if ids_BL.shape[1] == 1 else ids_BL.numel()
        view = self.causal if torch.is_grad_enabled() else self.causal_for(tokens)
        return view(
            ids_BL,
            attention_mask=mask_BL,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=keep,
            **_shifted(ids_BL, cache),
        ).logits

    def _logits_of_media(
        self, ids_BL: Tensor, media: Sequence[MediaTokens], cache: Cache | None, keep: int
    ) -> Tensor:
        """Return the logits of a prompt with media tokens, after the cached tokens."""
        held = 0 if cache is None else int(cache.get_seq_length())
        first = held + (0 if cache is None else position_offset(cache))
        lengths = [ids_BL.shape[1]]
        given = self._decoder_inputs(ids_BL[0], lengths, media, held=(held, first), causal=True)
        output = self.causal(
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=keep,
            **given.arguments,
        )
        if cache is not None:
            set_position_offset(cache, given.after[0] - held - lengths[0])
        return output.logits

    def _decoder_inputs(
        self,
        ids_T: Tensor,
        lengths: list[int],
        media: Sequence[MediaTokens],
        *,
        held: tuple[int, int] = (0, 0),
        causal: bool,
    ) -> DecoderInputs:
        threads.adjust()
        return decoder_inputs(
            self.decoder, self.senses, ids_T, lengths, media, held=held, causal=causal
        )

    def _packed_media(
        self,
        ids_T: Tensor,
        lengths: list[int],
        media: Sequence[MediaTokens],
        cache: Cache | None,
        pause: Callable[[], None] | None,
    ) -> tuple[Tensor, list[int]]:
        """Return the bidirectional states (T, D) of texts with media, and the position after each.

        The view of the model itself computes them: faster views take token ids only.
        """
        if not self.packs:
            raise ModelError(f"{type(self.causal).__name__} has its attention built in")
        given = self._decoder_inputs(ids_T, lengths, media, causal=False)
        output = self.bidirectional(
            past_key_values=cache,
            use_cache=cache is not None,
            lengths=lengths,
            pause=pause,
            **given.arguments,
        )
        return output.last_hidden_state[0], given.after

    def _causal_media(
        self, ids_T: Tensor, lengths: list[int], media: Sequence[MediaTokens], *, get_blocks: bool
    ) -> tuple[Tensor, list[KVBlock]]:
        """Return the causal states (T, D) of texts with media, each in its own pass, and blocks."""
        states = []
        blocks = []
        for row in ids_T.split(lengths):
            cache = recording(self.config.num_hidden_layers)
            given = self._decoder_inputs(row, [len(row)], media, causal=True)
            output = self.decoder(past_key_values=cache, use_cache=True, **given.arguments)
            states.append(output.last_hidden_state[0])
            if get_blocks:
                data = recorded(cache)
                blocks += self._blocks(data, row, [len(row)], causal=True, after=given.after)
        return torch.cat(states), blocks

    def new_cache(self, capacity: int) -> Cache:
        """Return an empty cache for ``capacity`` tokens that :attr:`decoding` accepts."""
        if set(getattr(self.config, "layer_types", None) or ()) - _ATTENTION_LAYERS:
            return DynamicCache(
                config=self.config
            )  # for layers with other states than keys and values
        if self.compiled:
            return fixed(self.config, capacity)
        return preallocated(self.config.num_hidden_layers, capacity)

    def causal_for(self, tokens: int) -> Any:
        """Return the fastest causal view for a number of tokens per text; for inference only."""
        threads.adjust()
        if self._has_fast_view(tokens):
            return self._derived("causal", _fast_causal)
        return self.decoding if tokens == 1 and not self._has_dropout else self.causal

    @property
    def decoding(self) -> Any:
        """Causal view for one-token steps: compiled, lean, packed, or the model itself."""
        with self._views_lock:
            version = self._version.current()
            if self._decoding is None or self._decoding[0] != version:
                self._decoding = version, self._decoding_view()
            return self._decoding[1]

    @property
    def compiled_rows(self) -> int:
        """Most sequences of a step that numba compiled; 0 without such steps."""
        lean = lean_forward_of(self.decoding)
        return 0 if lean is None else lean.compiled_rows

    def _decoding_view(self) -> Any:
        if self.compiled:
            return compiled_view(self.causal)
        if self.base is not None:
            return adapted_view(self.causal, self.base.decoding)
        return decoding_view(self.causal, compiled=self._compiled_steps)

    @property
    def stepping(self) -> Any:
        """Causal view for batched decoding steps; see :mod:`gritlm.lm.attention.ragged`."""
        threads.adjust()
        return self._derived("stepping", _fast_stepping)

    def _bidirectional_for(self, tokens: int) -> Any:
        """Return the fastest bidirectional view for a total number of tokens."""
        threads.adjust()
        if torch.is_grad_enabled() or not self._has_fast_view(tokens):
            return self.bidirectional
        return self._derived("bidirectional", self._fast_bidirectional)

    def _fast_bidirectional(self, decoding: Any) -> Any:
        if (lean := lean_forward_of(decoding)) is not None:
            return lean.texts
        plain = decoding is self.causal
        return self.bidirectional if plain else views.bidirectional(decoding.base_model)

    def _has_fast_view(self, tokens: int) -> bool:
        """Return whether a view of the decoding view is faster for a number of tokens."""
        if self.compiled or self.causal.device.type != "cpu" or self._has_dropout:
            return False
        # In float32 the kernels of torch are as fast for many tokens.
        lean = self.dtype == torch.bfloat16 and lean_forward_of(self.decoding) is not None
        return tokens <= FEW or lean

    @property
    def _has_dropout(self) -> bool:
        """Whether attention is dropped at random, as in training; views for inference drop none."""
        trains = self.bidirectional.training or self.causal.training
        return trains and bool(getattr(self.config, "attention_dropout", 0.0))

    def _derived(self, name: str, make: Callable[[Any], Any]) -> Any:
        """Return a view of the decoding view, made again after a change of the weights."""
        decoding = self.decoding
        with self._views_lock:
            known = self._derived_views
            if name not in known or known[name][0] is not decoding:
                known[name] = decoding, make(decoding)
            return known[name][1]

    @property
    def fingerprint(self) -> str:
        """Hash of weights and dtype, which identifies the model of a KV block.

        Plain LoRA counts as if it were merged, so its model has the same hash either way.
        """
        with self._lock:
            version = self._version.current()
            if self._fingerprint is None or self._fingerprint[0] != version:
                self._fingerprint = version, fingerprint(self.decoder)
            return self._fingerprint[1]

    def require_own(self, block: KVBlock) -> None:
        """Refuse a KV block of other weights.

        Raises:
            CacheMismatchError: for a KV block of another model, with both fingerprints.
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
        return self._concatenated(view, ids_T, lengths, cache, pause)

    def _concatenated(
        self,
        view: Any,
        ids_T: Tensor,
        lengths: list[int],
        cache: Cache | None,
        pause: Callable[[], None] | None,
    ) -> Tensor:
        """Return the states (T, D) of a view that takes concatenated texts."""
        position_T = torch.cat([torch.arange(n) for n in lengths]).to(ids_T.device)
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
        """Return the states of a padded batch, for models whose attention cannot be exchanged."""
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
        self,
        data: Tensor,
        ids_T: Tensor,
        lengths: list[int],
        *,
        causal: bool = False,
        after: list[int] | None = None,
    ) -> list[KVBlock]:
        blocks = KVBlock.split(
            data,
            ids_T.cpu(),
            lengths,
            causal=causal,
            model=self.fingerprint,
            rope=self.rope(),
        )
        return blocks if after is None else [*map(KVBlock.ending_at, blocks, after)]

    def rope(self) -> RopeTable | None:
        """Return the table that moves keys to other positions; None if they cannot be moved."""
        if self._rope is None:
            try:
                self._rope = (rope_table(self.decoder, self.device),)
            except ModelError as error:
                log.info("KV blocks of this model cannot be moved: %s", error)
                self._rope = (None,)
        return self._rope[0]

    def layer_devices(self) -> list[torch.device]:
        """Return the device of the keys and values of each layer."""
        homes = [next(layer.parameters()).device for layer in self.decoder.layers]
        return [self.device if home.type == "meta" else home for home in homes]


def _require_length(longest: int, config: Any) -> None:
    at_least_one(longest, name="max_model_len")
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise InputError(
            f"max_model_len={longest}, the model takes at most {limit} tokens; lower it"
        )


def _shifted(ids_BL: Tensor, cache: Cache | None) -> dict[str, Tensor]:
    """Return positions that are not those of the tokens' indices, as after a block of an image."""
    offset = 0 if cache is None else position_offset(cache)
    if cache is None or not offset:
        return {}
    first = int(cache.get_seq_length()) + offset
    position_L = torch.arange(first, first + ids_BL.shape[1], device=ids_BL.device)
    return {"position_ids": position_L.expand(len(ids_BL), -1)}


def _fast_causal(decoding: Any) -> Any:
    return decoding if lean_forward_of(decoding) is not None else views.grouped(decoding)


def _fast_stepping(decoding: Any) -> Any:
    return decoding if lean_forward_of(decoding) is not None else ragged.view(decoding)


def unpack(packed_TD: Tensor, lengths: list[int]) -> Tensor:
    """Return concatenated rows (T, D) as a batch (B, L, D), padded on the right with zeros."""
    return pad_sequence(list(packed_TD.split(lengths)), batch_first=True)
