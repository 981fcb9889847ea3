"""gritlm: one language model that embeds, searches and writes.

Names are resolved on first use, so that ``import gritlm`` loads neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gritlm.lm.gritlm import GritLM
    from gritlm.lm.kv.block import KVBlock
    from gritlm.prompts import gritlm_instruction

__version__ = "0.1.0"

__all__ = ["GritLM", "KVBlock", "__version__", "gritlm_instruction"]

_HOMES = {
    "GritLM": "gritlm.lm.gritlm",
    "KVBlock": "gritlm.lm.kv.block",
    "gritlm_instruction": "gritlm.prompts",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gritlm' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
