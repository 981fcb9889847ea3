"""gritlm: embedding, search and generation with a single language model.

Public names are imported on first use, so that ``import gritlm`` loads neither torch nor
transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gritlm import lazy

if TYPE_CHECKING:
    from gritlm.lm.gritlm import GritLM
    from gritlm.lm.hub.formats.hub_card import CardFacts, CardScore
    from gritlm.lm.kv.block import KVBlock
    from gritlm.lm.media.files import MediaRules
    from gritlm.lm.sampling import SamplingParams
    from gritlm.prompts import gritlm_instruction

__version__ = "0.1.0"

__all__ = [
    "CardFacts",
    "CardScore",
    "GritLM",
    "KVBlock",
    "MediaRules",
    "SamplingParams",
    "__version__",
    "gritlm_instruction",
]

_HOMES = {
    "CardFacts": "gritlm.lm.hub.formats.hub_card",
    "CardScore": "gritlm.lm.hub.formats.hub_card",
    "GritLM": "gritlm.lm.gritlm",
    "KVBlock": "gritlm.lm.kv.block",
    "MediaRules": "gritlm.lm.media.files",
    "SamplingParams": "gritlm.lm.sampling",
    "gritlm_instruction": "gritlm.prompts",
}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)
