"""Export of a model to a folder or a file, and its upload to a model hub."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from huggingface_hub import HfApi
from torch import nn
from transformers import PreTrainedTokenizerBase

from gritlm.errors import GritLMError, InputError, ModelError, choice, first_line
from gritlm.lm.hub import checkpoint
from gritlm.lm.hub.formats import gguf_file, hub_card
from gritlm.lm.hub.formats.gguf_file import GgufType
from gritlm.lm.hub.formats.hub_card import CardFacts
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.unified import UnifiedLM

ExportForm = Literal["folder", "chat", "gguf"]
EXPORT_FORMS: tuple[ExportForm, ...] = get_args(ExportForm)


class UploadError(GritLMError, RuntimeError):
    """A model that could not be uploaded."""


@dataclass(frozen=True)
class ExportedModel:
    """The parts of a model that are exported.

    Attributes:
        lm: the model, with merged adapters.
        tokenizer: its tokenizer.
        settings: its settings.
        projection: layer before pooling; None for no projection.
    """

    lm: UnifiedLM
    tokenizer: PreTrainedTokenizerBase
    settings: ModelSettings
    projection: nn.Linear | None


def write(
    model: ExportedModel,
    path: Path,
    *,
    form: ExportForm = "folder",
    dtype: GgufType = "bf16",
    facts: CardFacts | None = None,
) -> None:
    """Write a model in a form of other programs.

    Args:
        model: the model.
        path: the folder or GGUF file.
        form: ``folder`` for all libraries, ``chat`` for programs that generate, ``gguf`` for
            llama.cpp.
        dtype: type of the matrices in a GGUF file.
        facts: facts of the model card in a folder; None writes no card.

    Raises:
        InputError: for an unknown form or type.
        ModelError: for a model that GGUF does not hold.
        OSError: for files that cannot be written.
    """
    choice(form, EXPORT_FORMS, name="form")
    if form == "gguf":
        if path.is_dir():
            raise InputError(f"{path} is a folder; pass the name of a file, such as model.gguf")
        if model.lm.senses is not None:
            raise ModelError(
                "a GGUF file holds text models, and this one reads images or sound too; use "
                "form='folder'"
            )
        gguf_file.write(
            path,
            model.lm.causal,
            model.tokenizer,
            template=model.settings.template,
            dtype=dtype,
        )
        return
    checkpoint.save(
        model.lm,
        model.tokenizer,
        model.settings,
        model.projection,
        path,
        embeds=form == "folder",
    )
    if facts is not None:
        hub_card.write(path, path.resolve().name, model.settings, facts)


def push(
    model: ExportedModel,
    repo_id: str,
    facts: CardFacts,
    *,
    private: bool = True,
    token: str | None = None,
) -> str:
    """Upload the folder of a model, with a model card, to a repository that may be new.

    Args:
        model: the model.
        repo_id: ``owner/name``.
        facts: facts of the model card.
        private: whether a new repository is private.
        token: token of the hub; None for that of ``hf auth login``.

    Returns:
        The address of the commit.

    Raises:
        UploadError: when the hub refuses or cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="gritlm-push-") as made:
        folder = Path(made)
        write(model, folder)
        hub_card.write(folder, repo_id, model.settings, facts)
        api: Any = HfApi(token=token)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message="Upload by gritlm"
            )
        # Besides its own errors, the library raises those of its transport, which has changed.
        except Exception as error:
            raise UploadError(f"{repo_id} could not be uploaded: {first_line(error)}") from error
    return str(commit.commit_url)
