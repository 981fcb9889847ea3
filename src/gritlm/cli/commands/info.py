"""``gritlm info``: properties of a model and of its environment."""

from __future__ import annotations

import json
import platform
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gritlm import __version__, distribution
from gritlm.cli import terminal
from gritlm.cli.options import ModelOptions

if TYPE_CHECKING:
    from gritlm import GritLM

_BFLOAT16_BYTES = 2


def info(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    model: ModelOptions,
) -> None:
    """Print the properties of a model, and how it runs on this machine."""
    lm = model.load()
    facts = {**_model(lm), **_sizes(lm), **_use(lm), **_versions()}
    if as_json:
        terminal.write(json.dumps(facts) + "\n")
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        terminal.write(f"{name:<{width}}  {_readable(name, value)}\n")


def _model(lm: GritLM) -> dict[str, Any]:
    towers = None if lm.senses is None else lm.senses.module
    config = getattr(towers, "config", lm.lm.config)  # that of the whole model, if it has towers
    return {
        "model": config.model_type,
        "source": lm.source,
        "adapter": lm.adapter,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "dtype_reason": lm.dtype_reason,
        "quantization": lm.quantization,
        "device": str(lm.device),
        "reads": ", ".join(lm.reads),
    }


def _sizes(lm: GritLM) -> dict[str, Any]:
    config = lm.lm.config
    heads = config.num_attention_heads
    return {
        "parameters": lm.num_parameters(),
        "memory_bytes": lm.memory_bytes(),
        "embedding_dimension": lm.embedding_dimension,
        "layers": config.num_hidden_layers,
        "attention_heads": heads,
        "key_value_heads": getattr(config, "num_key_value_heads", None) or heads,
        "max_length": lm.max_length,
        "context": lm.lm.max_positions,
        "kv_bytes_per_token_bfloat16": (
            lm.kv_bytes_per_token() * _BFLOAT16_BYTES // lm.dtype.itemsize
        ),
    }


def _use(lm: GritLM) -> dict[str, Any]:
    settings = lm.settings
    return {
        "pooling": settings.pooling_method,
        "normalized": settings.normalized,
        "attention": settings.attn,
        "template": settings.template,
        "trained_to_embed": settings.trained_to_embed,
    }


def _versions() -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "gritlm": __version__,
        "conflict": distribution.conflict(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "python": platform.python_version(),
    }


def _readable(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "memory_bytes":
        return f"{value:,} ({value / 2**20:.1f} MiB)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
