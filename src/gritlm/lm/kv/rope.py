"""Rotation of keys from one position to another (RoFormer, eq. 34).

Shapes: L layers, F rotary frequencies (half the rotated dimensions), T tokens, E head dimension.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gritlm.errors import ModelError
from gritlm.lm.kv.cache import recorded, recording

_PROBE = 9  # position at which a table is tested

# Kinds with frequencies that depend on the length of the text, whose keys cannot be moved.
LENGTH_DEPENDENT = {"dynamic", "longrope"}


@dataclass(frozen=True)
class RopeTable:
    """Rotary frequencies of every layer and the pairing of dimensions.

    Attributes:
        inv_freq_LF: radians per position, in float32 as in the model.
        interleaved: whether pairs are (0, 1), (2, 3), ... instead of (0, F), (1, F+1), ...
    """

    inv_freq_LF: Tensor
    interleaved: bool = False

    def layer(self, index: int) -> RopeTable:
        """Return the table of a single layer."""
        return replace(self, inv_freq_LF=self.inv_freq_LF[index : index + 1])

    def rotate(self, key_LKTE: Tensor, shift_T: Tensor) -> Tensor:
        """Return keys moved to other positions.

        Angles are float64, the rotation is float32. Dimensions that are not rotated (partial rotary
        embeddings) are unchanged.

        Args:
            key_LKTE: keys.
            shift_T: shift of each token in positions, (T,) or (1,).
        """
        angle_LTF = shift_T.to(torch.float64)[None, :, None] * self.inv_freq_LF.double()[:, None, :]
        cos, sin = (
            f(angle_LTF).float()[:, None].to(key_LKTE.device) for f in (torch.cos, torch.sin)
        )
        turned = 2 * self.inv_freq_LF.shape[1]
        x = key_LKTE[..., :turned].float()
        rest = key_LKTE[..., turned:]
        a, b = (x[..., 0::2], x[..., 1::2]) if self.interleaved else x.chunk(2, dim=-1)
        new_a = a * cos - b * sin
        new_b = b * cos + a * sin
        if self.interleaved:
            moved = torch.stack((new_a, new_b), dim=-1).flatten(-2)
        else:
            moved = torch.cat((new_a, new_b), dim=-1)
        return torch.cat((moved.to(key_LKTE.dtype), rest), dim=-1)


def rope_table(decoder: Any, device: torch.device) -> RopeTable:
    """Return the table of a transformers decoder, after a test on the model.

    Args:
        decoder: the decoder.
        device: device of its input.

    Raises:
        ModelError: for positions that are not rotary, frequencies that depend on the length of the
            text, or keys that are not moved by the table.
    """
    return _tried(decoder, _declared_table(decoder), device)


@torch.inference_mode()
def _tried(decoder: Any, table: RopeTable, device: torch.device) -> RopeTable:
    """Test a table with the keys of a single token at two positions, and return it.

    A single token attends to itself only, so its keys differ by rotation alone. Layers whose keys
    are equal have no positions (SmolLM3, Cohere 2): they get frequency 0.
    """
    first, second = (_lone_keys(decoder, position, device) for position in (0, _PROBE))
    size = first.abs().amax(dim=(1, 2, 3), keepdim=True)
    bound = size * (1e-3 if decoder.dtype == torch.float32 else 0.05)
    still_L = ((first - second).abs() <= bound).all(dim=3).all(dim=2).all(dim=1)
    found = RopeTable(table.inv_freq_LF * ~still_L[:, None], table.interleaved)
    moved = found.rotate(first, torch.tensor([_PROBE]))
    if not ((moved - second).abs() <= bound).all():
        raise ModelError(
            f"the keys of {type(decoder).__name__} are not moved by rotation alone: its key/value "
            "state cannot be moved"
        )
    return found


def _lone_keys(decoder: Any, position: int, device: torch.device) -> Tensor:
    cache = recording(decoder.config.num_hidden_layers)
    decoder(
        torch.tensor([[decoder.config.vocab_size // 2]], device=device),
        position_ids=torch.tensor([[position]], device=device),
        past_key_values=cache,
        use_cache=True,
    )
    return recorded(cache)[:, 0].float().cpu()


def _declared_table(decoder: Any) -> RopeTable:
    name = type(decoder).__name__
    rotary = getattr(decoder, "rotary_emb", None)
    if rotary is None:
        raise ModelError(f"{name} has no rotary positions: its key/value state cannot be moved")
    layers = decoder.config.num_hidden_layers
    kinds = getattr(decoder.config, "layer_types", None) or ["full_attention"] * layers
    rows = []
    for kind in kinds:
        _refuse_length_dependent(rotary, kind, name)
        frequency = getattr(rotary, f"{kind}_inv_freq", None)
        rows.append(frequency if frequency is not None else rotary.inv_freq)
    table_LF = torch.stack([row.detach().float().cpu() for row in rows])
    return RopeTable(table_LF, _interleaved(decoder, name))


def _refuse_length_dependent(rotary: nn.Module, layer_kind: str, name: str) -> None:
    kind = getattr(rotary, "rope_type", "default")
    kind = kind.get(layer_kind, "default") if isinstance(kind, dict) else kind
    if kind in LENGTH_DEPENDENT:
        raise ModelError(
            f"{name} scales its rotary frequencies with the length of the text ({kind}): "
            "its key/value state cannot be moved"
        )


def _interleaved(decoder: nn.Module, name: str) -> bool:
    """Return whether ``rotate_half`` of the model pairs neighbouring dimensions."""
    rotate_half = getattr(sys.modules[type(decoder).__module__], "rotate_half", None)
    found = None if rotate_half is None else rotate_half(torch.arange(4.0)).tolist()
    if found not in ([-2.0, -3.0, 0.0, 1.0], [-1.0, 0.0, -3.0, 2.0]):
        raise ModelError(f"{name} pairs rotary dimensions in an unknown way: keys cannot be moved")
    return found[0] == -1.0
