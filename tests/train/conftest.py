"""Fixtures of the training room: what the reference code computed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from gritlm.lm.unified import UnifiedLM
from gritlm.lm.vectors import mean, normalise

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class Golden:
    """A tiny model and what the reference says about it."""

    lm: UnifiedLM
    tensors: dict[str, Tensor]
    losses: dict[str, float]

    def vectors(self, side: str) -> Tensor:
        """Embeddings of the queries or the passages, with graph."""
        ids = self.tensors[f"{side}.input_ids"]
        mask = self.tensors[f"{side}.attention_mask"]
        start = self.tensors[f"{side}.instruction_lens"][:, None]
        pooled = mask * (torch.arange(ids.shape[1]) >= start)
        return normalise(mean(self.lm.hidden(ids, mask, causal=False), pooled))

    def logits(self) -> Tensor:
        return self.lm.logits(
            self.tensors["passage.input_ids"], self.tensors["passage.attention_mask"]
        )

    def gradient(self, name: str) -> Tensor | None:
        parameters = {
            "embed_tokens": "embed_tokens.weight",
            "q_proj0": "layers.0.self_attn.q_proj.weight",
        }
        return self.lm.decoder.get_parameter(parameters[name]).grad


@pytest.fixture(params=["mistral-11", "mixtral-12"])
def golden(request: pytest.FixtureRequest) -> Golden:
    folder = GOLDEN / request.param
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    about = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    return Golden(UnifiedLM(model), load_file(folder / "golden.safetensors"), about["losses"])
