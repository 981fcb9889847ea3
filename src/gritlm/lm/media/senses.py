"""Interface between a decoder and the towers by which it reads images and sound.

An image or a sound becomes *media tokens*: a run of token ids, in which placeholders stand for the
features of a tower. The id of a placeholder is negative and follows from the content, so whatever
is keyed by token ids (KV blocks, prefix caches) never takes one image for another.

Shapes: M placeholders, D hidden size, T tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gritlm.errors import InputError, ModelError
from gritlm.lm.media.files import DecodedImage as DecodedImage
from gritlm.lm.media.files import DecodedSound as DecodedSound
from gritlm.lm.media.files import Kind as Kind

KINDS: tuple[Kind, ...] = ("image", "sound")

_TOP_BIT = np.uint64(1 << 63)


@dataclass(frozen=True, eq=False)
class MediaTokens:
    """Tokens of an image or a sound, and the input of the tower that computes their features.

    Attributes:
        kind: ``image`` or ``sound``.
        ids: token ids that replace the model's media token in a chat; placeholders are negative,
            from :func:`placeholder_ids`. There may be ordinary ids before, between and after them.
        placeholder: token id of the vocabulary in whose place the features are.
        inputs: arguments of the tower, made of the content.
        before: token ids before ``ids`` where no chat template has written them.
        after: token ids after ``ids`` there.
        offsets_3M: positions (time, row, column) of the placeholders relative to the first one, of
            models with three-dimensional positions; None for consecutive positions. The
            placeholders are then consecutive tokens.
        extent: number of positions that the placeholders take, with ``offsets_3M``.
    """

    kind: Kind
    ids: tuple[int, ...]
    placeholder: int
    inputs: Mapping[str, Any] = field(repr=False)
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    offsets_3M: Tensor | None = None
    extent: int = 0

    @property
    def alone(self) -> tuple[int, ...]:
        """The token ids outside of a chat template."""
        return (*self.before, *self.ids, *self.after)

    @property
    def placeholders(self) -> tuple[int, ...]:
        """The negative ids, in their order."""
        return tuple(number for number in self.ids if number < 0)


@dataclass(frozen=True, eq=False)
class MediaFeatures:
    """Features of an image or a sound.

    Attributes:
        states_MD: states that replace the embeddings of the placeholders.
        deep: states (M, D) that are added after the first layers of the decoder, one for each layer
            (DeepStack).
    """

    states_MD: Tensor
    deep: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class MediaPass:
    """Texts with media tokens, in a pass of the decoder.

    Attributes:
        ids_T: token ids of the concatenated texts, with the placeholders of the vocabulary.
        lengths: number of tokens of each text.
        item_T: index of the image or sound of each placeholder; -1 for other tokens.
        deep: states (P, D) of all P placeholders for each of the first layers.
        held: number of cached tokens before the (only) text.
        causal: whether a token attends to earlier tokens only, else to its whole text.
    """

    ids_T: Tensor
    lengths: Sequence[int]
    item_T: Tensor
    deep: tuple[Tensor, ...]
    held: int
    causal: bool


class Senses(Protocol):
    """Towers and projectors of a model that reads images, sound or both.

    The methods are pure and may be called from several threads. An implementation subclasses the
    protocol and inherits the methods that only a few families need.

    Attributes:
        kinds: kinds that the model reads: ``image``, ``sound`` or both.
        media_tokens: text of the token by which the chat template of the model names an image or a
            sound; empty for a template that knows texts only, where media tokens stand in place.
        module: towers and projectors, for their device, size and training.
        projectors: parts of the names of the projectors' parameters in ``module``, which training
            changes while the towers stay as they are.
        attends_within: whether the tokens of an image attend to each other in a causal pass too.
    """

    kinds: frozenset[Kind]
    media_tokens: Mapping[Kind, str]
    module: nn.Module
    projectors: Sequence[str] = ()
    attends_within: bool = False

    def read(self, content: DecodedImage | DecodedSound) -> MediaTokens:
        """Return the tokens of an image or a sound.

        No tower has to read it for that, unless the number of tokens depends on its features.

        Raises:
            InputError: for content that the model does not take: a kind not in :attr:`kinds`, a
                sound that is too long, ...
        """
        ...

    def features(self, tokens: MediaTokens) -> MediaFeatures:
        """Return the features of the placeholders: a pass of the tower and of its projector.

        Gradients follow the parameters of :attr:`module` that require them.
        """
        ...

    def decoder_options(self, run: MediaPass) -> dict[str, Any]:
        """Return further arguments of the decoder for a pass, such as an attention mask."""
        del run
        return {}

    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Replace parameters of :attr:`module`; the ids of placeholders change with them.

        Args:
            weights: the parameters by name.

        Raises:
            ModelError: for a parameter that the module does not have, or of another shape.
        """
        require_parameters(self.module, weights)
        self.module.load_state_dict(dict(weights), strict=False)

    def save(self, model: Any, folder: Path) -> None:
        """Write the weights and the configuration of a model with its senses to a folder.

        Args:
            model: the text decoder, with its LM head if any.
            folder: the target.

        Raises:
            ModelError: for senses that are not saved with a model.
        """
        del model, folder
        raise ModelError(f"{type(self).__name__} is not saved together with a model")


def require_parameters(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not those of a module's parameters.

    Args:
        module: the module.
        weights: some of its parameters by name.

    Raises:
        ModelError: with the name of the first other parameter.
    """
    known = dict(module.named_parameters())
    for name, value in weights.items():
        if name not in known or known[name].shape != value.shape:
            has = tuple(known[name].shape) if name in known else "none"
            raise ModelError(
                f"the trained weights of towers and projectors have {name} of shape "
                f"{tuple(value.shape)}, the model {has}; load them with their own base"
            )


def placeholder_ids(inputs: Mapping[str, Any], maker: str, count: int) -> tuple[int, ...]:
    """Return the negative ids of the placeholders of an image or a sound.

    Args:
        inputs: arguments of the tower.
        maker: fingerprint of the tower and its projector.
        count: number of placeholders.
    """
    digest = hashlib.shake_128(maker.encode())
    for name in sorted(inputs):
        digest.update(f"\0{name}\0".encode())
        _add(digest, inputs[name])
    numbers = np.frombuffer(digest.digest(8 * count), dtype=np.uint64) | _TOP_BIT
    return tuple(numbers.astype(np.int64).tolist())


def _add(digest: Any, value: Any) -> None:
    """Add a value to a digest: a tensor, an array, or a list of values."""
    if isinstance(value, Tensor):
        flat = value.detach().to("cpu").contiguous().flatten()
        digest.update(f"{tuple(value.shape)}{value.dtype}".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, list | tuple):
        for each in value:
            _add(digest, each)
    else:
        digest.update(f"\0{value!r}".encode())


def require_short(content: DecodedSound, seconds: float) -> None:
    """Refuse a sound that is longer than the tower reads in one pass.

    Args:
        content: the sound.
        seconds: longest sound of the tower.

    Raises:
        InputError: with both lengths.
    """
    if content.seconds > seconds:
        raise InputError(
            f"it is {content.seconds:.1f} s long, the model hears {seconds} s; cut it into windows"
        )
