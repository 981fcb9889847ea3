"""Small towers and trained projectors, by which a text-only decoder reads images and sound.

Shapes: M features or media tokens, F features of a vector, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gritlm.lm.fingerprint import fingerprint
from gritlm.lm.media.senses import (
    DecodedImage,
    DecodedSound,
    Kind,
    MediaFeatures,
    MediaTokens,
    Senses,
    placeholder_ids,
    require_short,
)
from gritlm.lm.media.sounds import resampled
from gritlm.lm.media.towers import efficientnet, whisper
from gritlm.lm.media.towers.efficientnet import EfficientNetLite0
from gritlm.lm.media.towers.projector import Predictions, Projector, mean_of_runs, word_runs
from gritlm.lm.media.towers.projector_files import SUBFOLDER, save_projector
from gritlm.lm.media.towers.whisper import WhisperTower


class SmallSenses(Senses):
    """Senses of frozen towers with trained projectors.

    Args:
        image: the image tower and its projector; None for a model that reads no images.
        sound: the sound tower and its projector; None for a model that hears nothing.
        placeholder: token id in whose place features are.
        maker: fingerprint of towers and projectors.
    """

    kinds: frozenset[Kind]
    media_tokens: Mapping[Kind, str] = {}
    module: nn.Module
    projectors: Sequence[str] = (".image_projector.", ".sound_projector.")

    def __init__(
        self,
        image: tuple[EfficientNetLite0, Projector] | None,
        sound: tuple[WhisperTower, Projector] | None,
        *,
        placeholder: int,
        maker: str,
    ) -> None:
        self._towers: dict[Kind, tuple[Any, Projector]] = {}
        self._placeholder = placeholder
        self._maker = maker
        modules: dict[str, nn.Module] = {}
        if image is not None:
            self._towers["image"] = image
            modules |= {"image_tower": image[0], "image_projector": image[1]}
        if sound is not None:
            self._towers["sound"] = sound
            modules |= {"sound_tower": sound[0].encoder, "sound_projector": sound[1]}
        self.module = nn.ModuleDict(modules).eval()
        self.kinds = frozenset(self._towers)

    def read(self, content: DecodedImage | DecodedSound) -> MediaTokens:
        """Return the tokens of an image or a sound.

        The number of tokens of a sound is that of the words that the projector hears, so its tower
        reads it here.
        """
        if isinstance(content, DecodedImage):
            pixels = torch.from_numpy(efficientnet.prepared(content.pixels))
            return self._tokens("image", pixels, self._towers["image"][1].vectors(0), {})
        require_short(content, whisper.WINDOW)
        tower, projector = self._towers["sound"]
        samples = torch.from_numpy(resampled(content, whisper.RATE).samples)
        features_MF = tower.read(samples.numpy())
        with torch.no_grad():
            runs = word_runs(self._predictions(projector, features_MF).logits_MV)
        return self._tokens("sound", samples, len(runs), {"features": features_MF, "runs": runs})

    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Replace parameters of towers and projectors."""
        super().update(weights)
        self._maker = fingerprint(self.module)

    def _tokens(
        self, kind: Kind, content: Tensor, count: int, inputs: dict[str, Any]
    ) -> MediaTokens:
        ids = placeholder_ids({kind: content}, self._maker, count)
        return MediaTokens(kind, ids, self._placeholder, inputs or {"pixels": content})

    def features(self, tokens: MediaTokens) -> MediaFeatures:
        tower, projector = self._towers[tokens.kind]
        if tokens.kind == "image":
            pixels = tokens.inputs["pixels"][None].to(tower.head.convolution.weight)
            features_MF = tower(pixels)[0]
            return MediaFeatures(self._predictions(projector, features_MF).states_MD)
        states_MD = self._predictions(projector, tokens.inputs["features"]).states_MD
        return MediaFeatures(mean_of_runs(states_MD, tokens.inputs["runs"]))

    def save(self, model: Any, folder: Path) -> None:
        """Write a model, and its projectors to the folder ``senses`` in it; towers are not kept."""
        model.save_pretrained(folder)
        target = folder / SUBFOLDER
        target.mkdir(exist_ok=True)
        for kind, (_, projector) in self._towers.items():
            save_projector(projector, kind, target)

    @staticmethod
    def _predictions(projector: Projector, features_MF: Tensor) -> Predictions:
        return projector([features_MF.float().to(projector.leave.weight.device)])[0]
