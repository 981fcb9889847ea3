"""KV slots of concurrent sequences, and batched decoding steps.

Shapes: B sequences of a step, S slots, K key/value heads, C capacity of a slot in tokens, E head
dimension, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gritlm.lm.attention import ragged
from gritlm.lm.generator import prefill
from gritlm.lm.kv.cache import PreallocatedLayer, UnboundedLayer, is_preallocated, recording
from gritlm.lm.unified import UnifiedLM

# Maximum difference between batched and single steps, relative to the largest logit.
_TOLERANCE = {torch.float32: 1e-3}
_ROUNDING = 0.05


class SlotMemory:
    """Preallocated keys and values of concurrent sequences, a KV slot each.

    The caller keeps track of the tokens in each slot. Methods must not be called concurrently.

    Args:
        lm: the model; others with layers of the same shapes may use the slots too.
        slots: number of slots.
        capacity: room of a slot in tokens.
    """

    def __init__(self, lm: UnifiedLM, slots: int, capacity: int) -> None:
        self._lm = lm
        self.capacity = capacity
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        layers: list[Any] = _example(lm).layers
        for layer in layers:
            self._keys.append(_buffer(layer.keys, slots, capacity))
            self._values.append(_buffer(layer.values, slots, capacity))

    @property
    def nbytes(self) -> int:
        """Size of all slots in bytes."""
        return sum(buffer.nbytes for buffer in (*self._keys, *self._values))

    def cache(self, slot: int, tokens: int) -> Cache:
        """Return a cache of a slot, to continue after its first ``tokens`` tokens."""
        row = slice(slot, slot + 1)
        pairs = zip(self._keys, self._values, strict=True)
        return Cache(layers=[_SlotLayer(k[row], v[row], tokens) for k, v in pairs])

    @torch.no_grad()
    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first ``tokens`` tokens of a slot to another."""
        for buffer in (*self._keys, *self._values):
            buffer[target, :, :tokens] = buffer[source, :, :tokens]

    @torch.no_grad()
    def adopt(self, slot: int, cache: Cache, tokens: int) -> None:
        """Copy the first ``tokens`` tokens of a cache with a single row to a slot."""
        layers: list[Any] = cache.layers
        for keys, values, layer in zip(self._keys, self._values, layers, strict=True):
            keys[slot, :, :tokens] = layer.keys[0, :, :tokens]
            values[slot, :, :tokens] = layer.values[0, :, :tokens]

    @torch.no_grad()
    def clear(self, slot: int) -> None:
        """Fill a slot with zeros: non-finite values would spread to neighbouring slots."""
        for buffer in (*self._keys, *self._values):
            buffer[slot] = 0

    @torch.inference_mode()
    def step(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        held: Sequence[int],
        *,
        offsets: Sequence[int] | None = None,
        view: Any = None,
    ) -> Tensor:
        """Add a token to each of B slots and return the logits (B, V) of the next tokens.

        Args:
            tokens: token id for each slot.
            slots: the slots, ascending.
            held: number of tokens in each slot before the step.
            offsets: position of each token minus that number; None for 0.
            view: view for batched decoding steps of the model whose keys and values the slots hold;
                None for that of the memory's model.
        """
        device = self._lm.device
        stepping = self._lm.stepping if view is None else view
        place_B = torch.tensor(held, device=device)
        position_B = place_B if offsets is None else place_B + torch.tensor(offsets, device=device)
        slot_B = torch.tensor(slots, device=device)
        pairs = zip(self._keys, self._values, strict=True)
        cache = Cache(layers=[_StepLayer(k, v, slot_B, place_B) for k, v in pairs])
        ids_B = torch.tensor(tokens, device=device)
        return stepping(
            ids_B[:, None],
            position_ids=position_B[:, None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            runs=ragged.runs(slots, [size + 1 for size in held], device),
        ).logits[:, -1]


class _SlotLayer(PreallocatedLayer):
    """A cache layer over a single slot: (1, K, C, E)."""

    def __init__(self, keys: Tensor, values: Tensor, tokens: int) -> None:
        super().__init__(keys.shape[2])
        self.keys = keys
        self.values = values
        self.length = tokens
        self.dtype = keys.dtype
        self.device = keys.device
        self.is_initialized = True

    def grow(self, needed: int) -> None:
        raise ValueError(f"the slot has room for {self.capacity} tokens, not for {needed}")


class _StepLayer(UnboundedLayer):
    """A cache layer over all slots, to which a step writes a token in some of them."""

    keys: Any
    values: Any

    def __init__(self, keys: Tensor, values: Tensor, slot_B: Tensor, place_B: Tensor) -> None:
        super().__init__()
        self.keys = keys
        self.values = values
        self.is_initialized = True
        self._slot_B = slot_B.to(keys.device)
        self._place_B = place_B.to(keys.device)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the layer has its buffers already."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        self.keys[self._slot_B, :, self._place_B] = key_states[:, :, 0]
        self.values[self._slot_B, :, self._place_B] = value_states[:, :, 0]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return 0  # slots differ in length: the caller passes positions

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0


def obstacle(lm: UnifiedLM) -> str | None:
    """Return the reason why a model does not support batched decoding; None if it does.

    Two texts of different lengths are computed in a batch and separately as a test.
    """
    name = type(lm.causal).__name__
    if not lm.packs:
        return f"{name} has its attention built in"
    if not is_preallocated(lm.new_cache(1)):
        return f"the cache of {name} holds more than keys and values, or is compiled"
    if lm.rope() is None:
        return f"positions of {name} depend on the length of the text"
    try:
        difference = _difference(lm)
    except Exception as error:  # models of other architectures may raise anything
        return f"{name} cannot step several rows ({error})"
    if not difference <= _TOLERANCE.get(lm.dtype, _ROUNDING):  # NaN is a difference
        return f"{name} gives other logits when two texts are generated in a batch"
    return None


@torch.inference_mode()
def _difference(lm: UnifiedLM) -> float:
    """Return the difference between batched and single logits, relative to the largest one."""
    size = int(lm.causal.get_input_embeddings().num_embeddings)
    texts = [[(7 * i + 3) % size for i in range(12)], [(5 * i + 1) % size for i in range(5)]]
    memory = SlotMemory(lm, 2, 16)
    for slot, ids in enumerate(texts):
        prefill(lm, memory.cache(slot, 0), ids)
    together_BV = memory.step([2, 4], [0, 1], [len(ids) for ids in texts])
    alone_BV = torch.stack(
        [
            prefill(lm, memory.cache(slot, len(ids)), [token])
            for slot, (ids, token) in enumerate(zip(texts, (2, 4), strict=True))
        ]
    )
    off = (together_BV.float() - alone_BV.float()).abs().max()
    return float(off / alone_BV.float().abs().max())


@torch.inference_mode()
def _example(lm: UnifiedLM) -> Cache:
    """Return the recorded cache of a token, with shapes, dtypes and devices of all layers."""
    cache = recording(lm.config.num_hidden_layers)
    lm.causal(
        torch.zeros(1, 1, dtype=torch.long, device=lm.device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return cache


def _buffer(example_1K1E: Tensor, slots: int, capacity: int) -> Tensor:
    _, heads, _, size = example_1K1E.shape
    # Zeros, not uninitialised memory: padding is multiplied by 0, and 0 times NaN is NaN.
    return torch.zeros(
        (slots, heads, capacity, size), dtype=example_1K1E.dtype, device=example_1K1E.device
    )
