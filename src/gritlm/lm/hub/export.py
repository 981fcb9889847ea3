"""Configuration files of a checkpoint folder for sentence-transformers.

::

    modules.json                        transformer, pooling, projection, normalisation
    sentence_bert_config.json           bidirectional attention, longest text, literal text
    config_sentence_transformers.json   prompts, similarity, versions
    1_Pooling/ 2_Dense/ 3_Normalize/    one folder for each further module

Without them, sentence-transformers uses causal attention and pools the last token. If it cannot
compute the vectors of a model, the files make it raise an error with the reason.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from gritlm.lm.attention import views
from gritlm.lm.hub import export_tokenizer
from gritlm.lm.hub.model_config import ModelSettings, read_object
from gritlm.lm.self_check import reads_alike
from gritlm.lm.unified import UnifiedLM
from gritlm.prompts import gritlm_instruction

log = logging.getLogger(__name__)

MODULES_FILE = "modules.json"
_MAIN_FILE = "config_sentence_transformers.json"
_READER_FILE = "sentence_bert_config.json"
_MODULES = "sentence_transformers.models"  # the names that every version of it resolves

# The first version that reads bidirectionally by is_causal=False, padded or not, and is tested.
_TRANSFORMERS = {
    "specifier": ">=5.17",
    "reason": "Earlier ones may ignore is_causal=False and embed with causal attention.",
}
ADAPTER = (
    "The folder holds an adapter, and its vectors need settings that the base model does not have; "
    "merge it: GritLM(folder).save_pretrained(other)"
)


def obstacle(lm: UnifiedLM, settings: ModelSettings) -> str | None:
    """Return why sentence-transformers cannot compute a model's vectors; None when it can."""
    if lm.senses is not None:
        return "It makes other prompts of images and sound than gritlm does"
    if settings.pooling_method == "weightedmean":
        return "Its weights count the prompt's tokens, so pooling_method='weightedmean' differs"
    if settings.embed_eos:
        return f"It appends no string to texts, and the model has embed_eos={settings.embed_eos!r}"
    if settings.embeds_causally:
        return None
    plain = views.configured(lm.decoder, _config(lm.config, settings) | _loading(lm.config))
    if not reads_alike(lm, plain):
        return f"Plain transformers does not read {type(lm.causal).__name__} bidirectionally"
    return None


def write(
    folder: Path,
    config: Any,
    settings: ModelSettings,
    projection: Mapping[str, Tensor] | None,
    *,
    obstacle: str | None,
) -> None:
    """Write the files into a folder with configuration, weights and tokenizer.

    Args:
        folder: the checkpoint folder.
        config: configuration of the model.
        settings: settings of the model.
        projection: ``weight`` and ``bias`` of the projection; None for no projection.
        obstacle: reason for a refusal, from :func:`obstacle`; None writes usable files.
    """
    headers = {
        "query": gritlm_instruction(settings.query_instruction),
        "document": gritlm_instruction(),
    }
    reason = obstacle or export_tokenizer.fit(folder, sorted(set(headers.values())))
    if reason is not None:
        log.warning("sentence-transformers and mteb will refuse this folder. %s", reason)
        refuse(folder, reason)
        return
    # A key that config.json lacks cannot be overridden when the model is loaded.
    _save(folder / "config.json", read_object(folder / "config.json") | {"is_causal": True})
    _save(folder / _READER_FILE, _reader(config, settings))
    _save(folder / MODULES_FILE, _modules(folder, config, settings, projection))
    _save(
        folder / _MAIN_FILE,
        {
            "model_type": "SentenceTransformer",
            "prompts": headers,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
            "requirements": {"transformers": _TRANSFORMERS},
        },
    )


def refuse(folder: Path, reason: str) -> None:
    """Write files that make sentence-transformers raise an error with a reason."""
    # Only its check of requirements shows a message of the folder. Versions before 6 do not have
    # this check and stop at the module.
    requirement = {"python": {"specifier": "<1", "reason": f"No Python will do. {reason}"}}
    module = {"idx": 0, "name": "0", "path": "", "type": "gritlm.not_a_sentence_transformer"}
    _save(folder / _MAIN_FILE, {"model_type": "SentenceTransformer", "requirements": requirement})
    _save(folder / MODULES_FILE, [module])


def _config(config: Any, settings: ModelSettings) -> dict[str, Any]:
    """Return the changes of the configuration for embedding."""
    if settings.embeds_causally:
        return {}
    windowed = getattr(config, "sliding_window", None) is not None
    return {"is_causal": False, **({"sliding_window": views.NO_WINDOW} if windowed else {})}


def _loading(config: Any) -> dict[str, str]:
    """Return the attention implementation: ``eager`` for a soft cap on scores, else ``sdpa``."""
    capped = getattr(config, "attn_logit_softcapping", None)
    return {"attn_implementation": "eager" if capped else "sdpa"}


def _reader(config: Any, settings: ModelSettings) -> dict[str, Any]:
    positions = getattr(config, "max_position_embeddings", None)
    capped = getattr(config, "attn_logit_softcapping", None)
    return {
        "transformer_task": "feature-extraction",
        # With a chat template, texts would become messages, and prompts system messages.
        "modality_config": {
            "text": {"method": "forward", "method_output_name": "last_hidden_state"}
        },
        "module_output_name": "token_embeddings",
        "max_seq_length": settings.longest_text(positions),
        "config_kwargs": _config(config, settings),
        "processor_kwargs": {"split_special_tokens": True, "padding_side": "right"},
        "model_kwargs": _loading(config) if capped else {},
    }


def _modules(
    folder: Path, config: Any, settings: ModelSettings, projection: Mapping[str, Tensor] | None
) -> list[dict[str, Any]]:
    """Write the folder of each module after the transformer; return the list of all modules."""
    size = int(config.hidden_size)
    kinds = ["Transformer", "Pooling"]
    pooling = settings.pooling_method
    _save(
        folder / "1_Pooling" / "config.json",
        {
            "embedding_dimension": size,
            "pooling_mode": pooling,
            # "cls" is the first token of all, which belongs to the prompt.
            "include_prompt": pooling == "cls",
        },
    )
    if projection is not None:
        kinds.append("Dense")
        _save_dense(folder / f"{len(kinds) - 1}_Dense", projection)
    if settings.normalized:
        kinds.append("Normalize")
        _save(folder / f"{len(kinds) - 1}_Normalize" / "config.json", {})
    return [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{kind}" if index else "",
            "type": f"{_MODULES}.{kind}",
        }
        for index, kind in enumerate(kinds)
    ]


def _save_dense(folder: Path, projection: Mapping[str, Tensor]) -> None:
    """Write the projection as a layer after pooling.

    The order does not matter: the mean of projections is the projected mean.
    """
    out_features, in_features = projection["weight"].shape
    _save(
        folder / "config.json",
        {
            "in_features": in_features,
            "out_features": out_features,
            "bias": "bias" in projection,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    )
    weights = {f"linear.{k}": v.contiguous() for k, v in projection.items()}
    save_file(weights, folder / "model.safetensors")


def _save(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
