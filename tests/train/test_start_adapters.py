"""Runs that start from an adapter with tokens of its own, and merged results of tied embeddings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gritlm import GritLM
from gritlm.train.model.build import build
from gritlm.train.run.checkpoint import write_model
from gritlm.train.trainer import train
from tests.lm.test_adapter_vocabulary import ADDED, make, tokenizer_with
from tests.train import runs

pytestmark = pytest.mark.filterwarnings("ignore")

IDS = torch.tensor([[1, 5, 9, 400, 402, 17]])


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("lora", [True, False], ids=["trained on", "merged first"])
def test_a_run_goes_on_from_an_adapter_with_added_tokens(
    tiny_model: Callable[..., Path], tmp_path: Path, tied: bool, lora: bool
):
    base = tiny_model(tie_word_embeddings=tied, pad_token_id=None)
    adapter = make(base, tmp_path / "adapter", tokenizer=tokenizer_with(ADDED))
    said = {"base": str(base), "adapter": str(adapter), "lora": lora}
    run = runs.make(tmp_path, model=said, training={"max_steps": 2})
    train(run)
    model = GritLM(run.training.output_dir, dtype="float32", device="cpu")
    assert model.tokenizer.convert_tokens_to_ids(ADDED) == [400, 401, 402]
    weight = model.model.get_input_embeddings().weight
    assert weight.shape[0] == 403
    brought = load_file(adapter / "adapter_model.safetensors")
    expected = brought["base_model.model.model.embed_tokens.weight"]
    assert (weight - expected).abs().max() < (1e-7 if lora else 1e-2)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_merged_weights_of_tied_embeddings_equal_the_trained_adapter(
    tiny_model: Callable[..., Path], tmp_path: Path, target: str
):
    base = tiny_model(tie_word_embeddings=True, pad_token_id=None)
    said = {"base": str(base), "lora": True, "lora_target_modules": (target, "q_proj")}
    parts = build(runs.make(tmp_path, model=said))
    for name, parameter in parts.trainee.named_parameters():
        if "lora" in name:
            parameter.data += 0.05 * torch.randn_like(parameter)
    ids = IDS.clamp(max=399)
    with torch.inference_mode():
        expected = parts.trainee.model.eval()(ids).logits
        write_model(tmp_path / "merged", parts, None, merged=True)
        model = GritLM(tmp_path / "merged", dtype="float32", device="cpu")
        found = model.lm.logits(ids)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
