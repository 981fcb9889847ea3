"""Model settings in ``gritlm.json`` of a checkpoint folder."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from gritlm.atomic import replacing
from gritlm.errors import InputError, ModelError, choice, did_you_mean

FILE = "gritlm.json"
PROJECTION_FILE = "gritlm_projection.safetensors"

POOLING_METHODS = ("mean", "weightedmean", "lasttoken", "cls")
ATTENTIONS = ("bbcc", "cccc", "bb", "cc")
MODES = ("unified", "embedding", "generative")
TEMPLATES = ("auto", "gritlm", "tokenizer")


@dataclass(frozen=True)
class FusionSettings:
    """Calibration of answers from several passages (see :mod:`gritlm.rag.fusion`).

    Attributes:
        cosine: weight of the cosine, added to the mean log-probability of the question.
        margin: passages within this cosine of the best one are read.
        absent: smallest gain in mean log-probability of the question over a prompt without passage,
            below which the passages are taken not to hold the answer; None for no such judgement.
    """

    cosine: float
    margin: float
    absent: float | None = None

    def __post_init__(self) -> None:
        for name in ("cosine", "margin", "absent"):
            value = getattr(self, name)
            if value is None and name == "absent":
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or (name != "absent" and value < 0):
                raise InputError(f"fusion.{name}={value!r}; expected a finite number >= 0")

    def score(self, likelihood: float, cosine: float) -> float:
        """Return the score of a passage.

        Args:
            likelihood: mean log-probability of the question's tokens behind the passage.
            cosine: cosine of question and passage.
        """
        return likelihood + self.cosine * cosine


@dataclass(frozen=True)
class ModelSettings:
    """Settings of embedding and chat. The defaults are those of the reference.

    Attributes:
        pooling_method: mean | weightedmean | lasttoken | cls.
        attn: bbcc | cccc | bb | cc: two letters for embedding, two for generation; b is
            bidirectional, c is causal.
        normalized: whether vectors have length 1.
        max_length: default maximum length of a text to embed, in tokens.
        template: chat format: ``gritlm`` of the paper, ``tokenizer`` of the tokenizer's chat
            template, ``auto`` of the chat template if there is one, else of the paper.
        embed_eos: string appended to every text to embed.
        projection: dimension to which states are projected before pooling; None for none.
        query_instruction: default instruction of ``encode_query``.
        trained_to_embed: False for base weights that are trained to generate only; None if unknown,
            as for other models with a chat format of their own.
        fusion: calibration of answers from several passages; None without one.
        version: version of the file format.
    """

    pooling_method: str = "mean"
    attn: str = "bbcc"
    normalized: bool = True
    max_length: int = 512
    template: str = "auto"
    embed_eos: str = ""
    projection: int | None = None
    query_instruction: str = ""
    trained_to_embed: bool | None = True
    fusion: FusionSettings | None = None
    version: int = 1

    def __post_init__(self) -> None:
        choice(self.pooling_method, POOLING_METHODS, name="pooling_method")
        choice(self.attn, ATTENTIONS, name="attn")
        choice(self.template, TEMPLATES, name="template")
        self._require("normalized", isinstance(self.normalized, bool), "true or false")
        known = self.trained_to_embed is None or isinstance(self.trained_to_embed, bool)
        self._require("trained_to_embed", known, "true, false or null")
        for name in ("embed_eos", "query_instruction"):
            self._require(name, isinstance(getattr(self, name), str), "a string")
        self._require("max_length", _is_count(self.max_length), "a whole number >= 1")
        fits = self.projection is None or _is_count(self.projection)
        self._require("projection", fits, "a whole number >= 1, or none")
        self._require("version", self.version == 1, "1; a newer gritlm wrote this file")

    def _require(self, name: str, right: bool, expected: str) -> None:
        if not right:
            raise InputError(f"{name}={getattr(self, name)!r}; expected {expected}")

    @property
    def embeds_causally(self) -> bool:
        return self.attn.startswith("cc")

    def longest_text(self, positions: int | None) -> int:
        """Return the default maximum length of a text, in tokens.

        Args:
            positions: maximum length of the model; None if unknown.
        """
        return min(self.max_length, positions or self.max_length)

    def but(self, **changes: Any) -> ModelSettings:
        """Return a copy with the values of ``changes`` that are not None."""
        return replace(self, **{k: v for k, v in changes.items() if v is not None})

    def save(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=2) + "\n"
        with replacing(folder / FILE) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


UNSTATED = ModelSettings(trained_to_embed=None)  # of a checkpoint without the file


def read_settings(folder: Path) -> ModelSettings:
    """Return the settings of a checkpoint folder; :data:`UNSTATED` without ``gritlm.json``.

    Args:
        folder: the checkpoint folder.

    Raises:
        ModelError: for a file that is not a JSON object, or with an unknown key or value.
    """
    path = folder / FILE
    if not path.is_file():
        return UNSTATED
    content = read_object(path, mend="restore or delete the file")
    _require_known(content, ModelSettings, path)
    try:
        if content.get("fusion") is not None:
            content["fusion"] = _fusion(content["fusion"], path)
        return ModelSettings(**content)
    except InputError as error:
        raise ModelError(f"{path}: {error}") from None


def _fusion(content: object, path: Path) -> FusionSettings:
    if not isinstance(content, dict) or not {"cosine", "margin"} <= set(content):
        raise ModelError(f"{path}: fusion={content!r}; expected an object with cosine and margin")
    _require_known(content, FusionSettings, path)
    return FusionSettings(**content)


def _require_known(content: dict[str, Any], form: type, path: Path) -> None:
    known = [field.name for field in fields(form)]
    for key in content:
        if key not in known:
            raise ModelError(f"{path}: unknown key {key!r}{did_you_mean(key, known)}")


def read_object(path: Path, *, mend: str = "restore the file") -> dict[str, Any]:
    """Return the JSON object in a file of a checkpoint.

    Args:
        path: path of the file.
        mend: advice for a damaged file, at the end of the message.

    Raises:
        ModelError: for a file that is not a JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: no valid JSON ({error}); {mend}") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found
