"""Towers and projectors in training: which parameters are trained, and features that are kept.

Towers are frozen, and always in evaluation mode. Their projectors are trained.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gritlm.errors import InputError
from gritlm.lm.hub.default_model import SENSES
from gritlm.lm.media.senses import Kind, MediaFeatures, MediaPass, MediaTokens, Senses
from gritlm.lm.media.towers.projector_files import SUBFOLDER, has_projectors
from gritlm.train.config import TrainConfig

_KEPT_BYTES = 512 << 20


class KeptFeatures(Senses):
    """Senses without a trained parameter, which compute the features of each content once.

    Args:
        senses: the senses.
        most_bytes: maximum size of the features that are kept; the least recently used are dropped.
    """

    kinds: frozenset[Kind]
    media_tokens: Mapping[Kind, str]
    module: nn.Module

    def __init__(self, senses: Senses, most_bytes: int = _KEPT_BYTES) -> None:
        self._senses = senses
        self._most = most_bytes
        self._kept: OrderedDict[tuple[int, ...], MediaFeatures] = OrderedDict()
        self._bytes = 0
        self.kinds = senses.kinds
        self.media_tokens = senses.media_tokens
        self.module = senses.module
        self.attends_within = senses.attends_within

    def read(self, content: Any) -> MediaTokens:
        """Return the tokens of an image or a sound."""
        return self._senses.read(content)

    def decoder_options(self, run: MediaPass) -> dict[str, Any]:
        """Return further arguments of the decoder for a pass."""
        return self._senses.decoder_options(run)

    def save(self, model: Any, folder: Path) -> None:
        """Write the weights and the configuration of a model with its senses to a folder."""
        self._senses.save(model, folder)

    @torch.no_grad()
    def features(self, tokens: MediaTokens) -> MediaFeatures:
        """Return the features of the placeholders, without gradients."""
        key = tokens.placeholders[:2]  # two ids have 126 bits of the hash of the content
        found = self._kept.pop(key, None)
        if found is None:
            found = self._senses.features(tokens)
            self._bytes += _size(found)
        self._kept[key] = found
        while self._bytes > self._most:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        return found


def _size(features: MediaFeatures) -> int:
    return sum(states.nbytes for states in (features.states_MD, *features.deep))


def prepare(senses: Senses, run: TrainConfig) -> None:
    """Freeze the towers of a model, and make its projectors trainable.

    Trained parameters are in float32.

    Args:
        senses: towers and projectors of the model.
        run: settings of the run.

    Raises:
        InputError: for a setting that reads texts only.
    """
    _require_taken(run)
    for name, parameter in senses.module.named_parameters():
        projects = any(part in f".{name}" for part in senses.projectors)
        trained = projects or run.model.train_towers
        parameter.requires_grad_(trained)
        if trained:
            parameter.data = parameter.data.float()


def require_no_small_senses(base: str | None, source: str) -> None:
    """Raise an error for a text model with the projectors of the small senses.

    Without the error, a run would train its text decoder alone.

    Args:
        base: name of the model in the settings of the run.
        source: its folder or hub id.

    Raises:
        InputError: the message names the models that can be trained.
    """
    if base == SENSES or has_projectors(Path(source) / SUBFOLDER):
        raise InputError(
            f"[model]: base = {base!r} has projectors of the small senses, which cannot be trained "
            "here; use base = 'default' to train on texts, or a vision-language checkpoint such as "
            "HuggingFaceTB/SmolVLM-500M-Instruct to train on images"
        )


def _require_taken(run: TrainConfig) -> None:
    """Raise an error for a setting that a model with senses does not take."""
    loss = run.loss
    refused = {
        "[training]: distribution = 'fsdp'": run.training.distribution == "fsdp",
        "[model]: qlora = true": run.model.qlora,
        "[loss]: kl_weight": run.writes and loss.kl_weight > 0,
        "[loss]: question_weight": loss.question_weight > 0,
        "[loss]: teacher": run.embeds and loss.teacher is not None,
    }
    for setting, is_set in refused.items():
        if is_set:
            raise InputError(
                f"{setting} is not taken with a model that reads images or sound; leave it out, or "
                "train a text model"
            )


def anchored(values: Tensor, module: nn.Module) -> Tensor:
    """Return values with a graph to all trained parameters of a module, which adds zero.

    Each trained parameter then has a gradient after every pass, also where no text has an image or
    a sound, as DDP requires.

    Args:
        values: vectors or a loss.
        module: towers and projectors.
    """
    sums = [p.sum() for p in module.parameters() if p.requires_grad]
    if not sums or not torch.is_grad_enabled():
        return values
    return values + 0.0 * torch.stack(sums).sum()


def trained(module: nn.Module) -> dict[str, Tensor]:
    """Return the trained parameters of towers and projectors by name."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
