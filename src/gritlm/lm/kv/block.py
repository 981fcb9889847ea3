"""KVBlock, the keys and values of a text.

Shapes: L layers, K key/value heads, T tokens, E head dimension; one tensor (L, 2, K, T, E), keys
first, so that a layer is one contiguous view.

Moving a block only sets its target positions. Keys are rotated when the block is used, always from
the stored originals, so that rounding does not add up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gritlm.atomic import replacing
from gritlm.errors import CacheMismatchError, InputError
from gritlm.lm.kv.cache import position_offset, set_position_offset
from gritlm.lm.kv.rope import RopeTable

_FORMAT = "gritlm.kv/1"
_FORMAT_WITH_END = "gritlm.kv/2"  # with the position after the last token


@dataclass(frozen=True, eq=False)
class KVBlock:
    """Keys and values of the T tokens of a text, without padding.

    Attributes:
        data: keys and values (L, 2, K, T, E); keys are rotated for the positions ``stored_T``.
        token_ids: token ids (T,) of the text.
        stored_T: positions (T,) for which the keys were computed.
        position_T: positions (T,) at which the keys will be used.
        causal: whether tokens attended to earlier tokens only, else to the whole text.
        model: fingerprint of the weights that computed the block.
        rope: table that moves keys; None for models whose keys cannot be moved.
        end: position after the last token, where tokens of an image share positions (M-RoPE);
            None for consecutive positions. Positions are then the indices of the tokens.
    """

    data: Tensor
    token_ids: Tensor
    stored_T: Tensor
    position_T: Tensor
    causal: bool
    model: str
    rope: RopeTable | None = None
    end: int | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.data.shape[3]

    @property
    def nbytes(self) -> int:
        """Size of keys and values in bytes."""
        return self.data.nbytes

    @property
    def dtype(self) -> torch.dtype:
        """Data type of keys and values."""
        return self.data.dtype

    @property
    def device(self) -> torch.device:
        """Device of keys and values."""
        return self.data.device

    def __len__(self) -> int:
        return self.tokens

    def __repr__(self) -> str:
        kind = "causal" if self.causal else "bidirectional"
        return f"KVBlock({self.tokens} tokens, {kind}, {self.dtype}, {self.nbytes / 1e6:.1f} MB)"

    def __getitem__(self, part: slice) -> KVBlock:
        """Return a block of some consecutive tokens, at their positions, without a copy."""
        if not isinstance(part, slice) or part.step not in (None, 1):
            raise InputError(f"a KVBlock takes a slice with step 1, not [{part!r}]; try block[1:]")
        start, stop, _ = part.indices(self.tokens)
        if self.end is not None and stop < self.tokens and start < stop:
            raise InputError(
                f"this block of {self.tokens} tokens has an image, whose tokens share positions; "
                "its end cannot be cut off"
            )
        return replace(
            self,
            data=self.data[:, :, :, part],
            token_ids=self.token_ids[part],
            stored_T=self.stored_T[part],
            position_T=self.position_T[part],
        )

    def move(self, position: int) -> KVBlock:
        """Return a block with its first token at another position, without a copy.

        Args:
            position: new position of the first token.

        Raises:
            InputError: for a negative position, or keys that cannot be moved.
        """
        if position < 0:
            raise InputError(f"position={position} is before the start of the text; expected >= 0")
        if not self.tokens:
            return self
        moved_T = self.position_T + (position - self.position_T[0])
        if self.end is not None and not torch.equal(moved_T, self.stored_T):
            raise InputError(
                f"this block has an image at positions of three dimensions (M-RoPE) and cannot be "
                f"moved to position {position}; put it first, or embed it together with the text "
                "before it"
            )
        if self.rope is None and not torch.equal(moved_T, self.stored_T):
            raise InputError("this model's keys carry no rotary positions and cannot be moved")
        return replace(self, position_T=moved_T)

    def ending_at(self, position: int) -> KVBlock:
        """Return the block with the position after its last token.

        Args:
            position: the position; that of the index after the last token changes nothing.
        """
        return self if position == self.tokens else replace(self, end=position)

    @staticmethod
    def split(
        data: Tensor,
        token_ids: Tensor,
        lengths: Sequence[int],
        *,
        causal: bool,
        model: str,
        rope: RopeTable | None,
    ) -> list[KVBlock]:
        """Return the block of each of several texts that were read in one pass, as copies.

        Args:
            data: keys and values (L, 2, K, T, E) of all texts, each at positions from 0.
            token_ids: token ids (T,) of all texts.
            lengths: number of tokens of each text.
            causal: whether tokens attended to earlier tokens only.
            model: fingerprint of the weights that computed the blocks.
            rope: table that moves keys; None for models whose keys cannot be moved.
        """
        blocks = []
        for data_T, ids_T in zip(
            data.split(list(lengths), dim=3), token_ids.split(list(lengths)), strict=True
        ):
            position_T = torch.arange(len(ids_T))
            block = KVBlock(
                data=data_T.clone(),
                token_ids=ids_T.clone(),
                stored_T=position_T,
                position_T=position_T,
                causal=causal,
                model=model,
                rope=rope,
            )
            blocks.append(block)
        return blocks

    @staticmethod
    def join(blocks: Sequence[KVBlock], *, position: int = 0) -> KVBlock:
        """Concatenate blocks.

        Tokens still have attended to their own block only. Remove the BOS of all blocks except the
        first: ``block[1:]``.

        Args:
            blocks: blocks of the same model.
            position: position of the first token.

        Raises:
            InputError: for an empty list.
            CacheMismatchError: for blocks of different models.
        """
        if not blocks:
            raise InputError("join() got no blocks; expected one or more")
        if len(blocks) > 1 and any(block.end is not None for block in blocks):
            raise InputError(
                "join() got a block with an image at positions of three dimensions (M-RoPE), which "
                "cannot be joined; embed the image together with the other texts"
            )
        first = blocks[0]
        moved = []
        for block in blocks:
            _require_same_maker(block, first)
            moved.append(block.move(position))
            position += block.tokens
        return replace(
            first,
            data=torch.cat([block.data for block in moved], dim=3),
            token_ids=torch.cat([block.token_ids for block in moved]),
            stored_T=torch.cat([block.stored_T for block in moved]),
            position_T=torch.cat([block.position_T for block in moved]),
            causal=all(block.causal for block in moved) and len(moved) == 1,
        )

    def to(
        self, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None
    ) -> KVBlock:
        """Return the block in another dtype or on another device.

        Args:
            dtype: floating-point dtype; None keeps it.
            device: target device; None keeps it.

        Raises:
            InputError: for a dtype that is not floating-point.
        """
        if dtype is not None and not dtype.is_floating_point:
            raise InputError(f"dtype={dtype}; expected a floating-point format, e.g. bfloat16")
        return replace(self, data=self.data.to(device=device, dtype=dtype))

    def placed(self) -> Tensor:
        """Return keys and values (L, 2, K, T, E) with the keys at ``position_T``."""
        shift_T = self._shift()
        if self.rope is None or shift_T is None:
            return self.data
        keys_LKTE = self.rope.rotate(self.data[:, 0], shift_T)
        return torch.stack((keys_LKTE, self.data[:, 1]), dim=1)

    def layers(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield keys at ``position_T`` and values, (K, T, E) each, layer by layer.

        They equal :meth:`placed`, without a copy of the whole block.
        """
        shift_T = self._shift()
        for index, (keys, values) in enumerate(self.data):
            if self.rope is None or shift_T is None:
                yield keys, values
            else:
                yield self.rope.layer(index).rotate(keys[None], shift_T)[0], values

    def _shift(self) -> Tensor | None:
        """Return the shift (T,) of each token, (1,) if all are equal, None if all are zero."""
        shift_T = self.position_T - self.stored_T
        if not shift_T.any():
            return None
        return shift_T[:1] if (shift_T == shift_T[0]).all() else shift_T

    def fill(
        self, cache: Cache, *, rows: int = 1, devices: Sequence[torch.device] | None = None
    ) -> Cache:
        """Append this block to a cache and return the cache.

        Args:
            cache: the cache.
            rows: batch size; every row gets the same block.
            devices: device of each layer; None keeps the device of the block.

        Raises:
            InputError: for positions other than the next ones of the cache; see :meth:`move`.
        """
        held = int(cache.get_seq_length())  # a tensor on the GPU for static caches
        if offset := position_offset(cache):
            raise InputError(
                f"the cached tokens end at position {held + offset}, because those of an image "
                "share positions; a block cannot follow them, pass its text instead"
            )
        if self.tokens and not torch.equal(self.position_T - held, torch.arange(self.tokens)):
            raise InputError(
                f"the next tokens sit at positions {held}..{held + self.tokens - 1}, this block "
                f"begins at {int(self.position_T[0])} or has gaps; use block.move({held}), or join "
                "its parts"
            )
        for index, (keys, values) in enumerate(self.layers()):
            if devices is not None:
                keys = keys.to(devices[index])
                values = values.to(devices[index])
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), index)
        if self.end is not None:
            set_position_offset(cache, self.end - held - self.tokens)
        return cache

    def save(self, path: str | Path) -> Path:
        """Write the block to a safetensors file, atomically, and return its path."""
        from safetensors.torch import save_file

        tensors = {
            "data": self.data.contiguous(),
            "token_ids": self.token_ids.contiguous(),
            "stored": self.stored_T.clone(),
            "position": self.position_T.clone(),
        }
        metadata = {"format": _FORMAT, "model": self.model, "causal": json.dumps(self.causal)}
        if self.end is not None:
            metadata |= {"format": _FORMAT_WITH_END, "end": str(self.end)}
        if self.rope is not None:
            tensors["inv_freq"] = self.rope.inv_freq_LF.contiguous()
            metadata["interleaved"] = json.dumps(self.rope.interleaved)
        with replacing(Path(path)) as temporary:
            save_file(tensors, temporary, metadata=metadata)
        return Path(path)

    @staticmethod
    def load(path: str | Path) -> KVBlock:
        """Read a file written by :meth:`save`.

        Args:
            path: path of the file.

        Raises:
            InputError: for a file that is missing, truncated or in another format.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read as a KV block: {error}") from None
        if metadata.get("format") not in (_FORMAT, _FORMAT_WITH_END):
            raise InputError(f"{path}: format {metadata.get('format')!r}; expected {_FORMAT!r}")
        rope = None
        if "inv_freq" in tensors:
            rope = RopeTable(tensors["inv_freq"], json.loads(metadata["interleaved"]))
        return KVBlock(
            data=tensors["data"],
            token_ids=tensors["token_ids"],
            stored_T=tensors["stored"],
            position_T=tensors["position"],
            causal=json.loads(metadata["causal"]),
            model=metadata["model"],
            rope=rope,
            end=int(metadata["end"]) if "end" in metadata else None,
        )


def _require_same_maker(block: KVBlock, other: KVBlock) -> None:
    if block.model != other.model:
        raise CacheMismatchError(
            f"the blocks were made by different models, {block.model} and {other.model}; "
            "join blocks of the same weights only"
        )
