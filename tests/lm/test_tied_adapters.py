"""Adapters on embeddings and LM heads, tied and untied: merged, they compute what PEFT computes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from gritlm import GritLM
from gritlm.errors import ModelError
from gritlm.lm.hub import merge, merge_check
from gritlm.lm.unified import UnifiedLM

IDS = torch.tensor([[1, 5, 9, 4, 300, 17, 399]])
OPTIONS: dict[str, Any] = {"dtype": "float32", "device": "cpu"}
LINEAR = ["q_proj", "down_proj"]
TARGETS = {
    "lm_head": ["lm_head"],
    "embed_tokens": ["embed_tokens"],
    "both": ["lm_head", "embed_tokens", "q_proj"],
    "all-linear": "all-linear",
}
KINDS: dict[str, dict[str, Any]] = {
    **{f"lora {name}": {"target_modules": targets} for name, targets in TARGETS.items()},
    **{
        f"dora {name}": {"target_modules": targets, "use_dora": True}
        for name, targets in TARGETS.items()
    },
    **{
        f"rslora {name}": {"target_modules": targets, "use_rslora": True}
        for name, targets in TARGETS.items()
    },
    **{
        f"saved {'+'.join(names)}": {"target_modules": LINEAR, "modules_to_save": names}
        for names in (["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"])
    },
    "tokens": {"target_modules": LINEAR, "trainable_token_indices": [5, 300]},
    "tokens of both": {
        "target_modules": LINEAR,
        "trainable_token_indices": {"embed_tokens": [5, 300], "lm_head": [5, 9]},
    },
    "ensured lm_head": {
        "target_modules": ["embed_tokens", "q_proj"],
        "ensure_weight_tying": True,
    },
    "ensured saved": {
        "target_modules": LINEAR,
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(tie_word_embeddings=request.param)


@pytest.fixture
def tied_base(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(tie_word_embeddings=True)


def make(base: Path, folder: Path, **settings: Any) -> Path:
    """Write an adapter whose every trainable tensor is random."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, **settings))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    adapted.save_pretrained(folder)
    return folder


def unmerged(base: Path, adapter: Path) -> nn.Module:
    from peft import PeftModel

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    PeftModel.from_pretrained(plain, adapter)
    return plain  # its layers are PEFT's now


@torch.inference_mode()
def passes(lm: UnifiedLM) -> dict[str, torch.Tensor]:
    """Logits, and states of both directions."""
    return {
        "logits": lm.logits(IDS),
        "causal": lm.hidden(IDS, causal=True),
        "bidirectional": lm.hidden(IDS, causal=False),
    }


def require_same(found: UnifiedLM, expected: dict[str, torch.Tensor]) -> None:
    for name, value in passes(found).items():
        assert (value - expected[name]).abs().max() <= 1e-5 * expected[name].abs().max(), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS.keys())
def test_a_loaded_adapter_equals_unmerged_peft_in_both_directions(base, tmp_path, settings):
    adapter = make(base, tmp_path / "adapter", **settings)
    expected = passes(UnifiedLM(unmerged(base, adapter)))
    model = GritLM(base, adapter=adapter, **OPTIONS)
    require_same(model.lm, expected)
    model.save_pretrained(tmp_path / "saved")
    require_same(GritLM(tmp_path / "saved", **OPTIONS).lm, expected)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    require_same(UnifiedLM(plain), expected)


@pytest.mark.filterwarnings("ignore")
def test_the_config_says_whether_the_merged_embeddings_are_tied(tied_base, tmp_path):
    tied = {"target_modules": LINEAR}, KINDS["tokens"], KINDS["ensured lm_head"]
    for number, settings in enumerate((*tied, KINDS["lora lm_head"], KINDS["lora embed_tokens"])):
        adapter = make(tied_base, tmp_path / f"adapter {number}", **settings)
        model = GritLM(tied_base, adapter=adapter, **OPTIONS).model
        stay_tied = number < len(tied)
        assert model.config.tie_word_embeddings is stay_tied
        assert (model.lm_head.weight is model.model.embed_tokens.weight) is stay_tied


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_merge_that_changes_other_weights_is_refused(tied_base, tmp_path, monkeypatch, target):
    adapter = make(tied_base, tmp_path / "adapter", target_modules=[target])
    monkeypatch.setattr(merge.tying, "untie", lambda head: None)
    with pytest.raises(ModelError, match=r"gives other .* \(relative difference") as caught:
        GritLM(tied_base, adapter=adapter, **OPTIONS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.filterwarnings("ignore")
def test_rounding_of_the_number_format_is_within_the_bound(base, tmp_path, dtype):
    adapter = make(base, tmp_path / "adapter", target_modules=["lm_head", "q_proj", "down_proj"])
    assert GritLM(base, adapter=adapter, dtype=dtype, device="cpu").adapter == str(adapter)


@pytest.mark.filterwarnings("ignore")
def test_warnings_of_peft_reach_the_log_as_one_line_each(tied_base, tmp_path, caplog):
    adapter = make(tied_base, tmp_path / "adapter", target_modules=["embed_tokens"])
    with caplog.at_level(logging.WARNING):
        GritLM(tied_base, adapter=adapter, **OPTIONS)
    lines = [
        record.getMessage() for record in caplog.records if "peft warns" in record.getMessage()
    ]
    assert len(lines) == 1
    assert "tie_word_embeddings" in lines[0]
    assert "\n" not in lines[0]


def test_an_adapter_that_cannot_be_merged_is_refused(base, tmp_path):
    from peft import PromptTuningConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="'PROMPT_TUNING' has no weights to merge"):
        GritLM(base, adapter=tmp_path / "adapter", **OPTIONS)


def test_the_check_reads_one_sentence_twice(
    make_adapter: Callable[..., Path], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lengths = []
    read = merge_check.read_sentence

    def recorded(model: Any, ids: Any) -> Any:
        states = read(model, ids)
        lengths.append(len(states["logits"]))
        return states

    monkeypatch.setattr(merge_check, "read_sentence", recorded)
    GritLM(base, adapter=make_adapter(base, tmp_path / "adapter"), **OPTIONS)
    assert len(lengths) == 2
    assert max(lengths) <= 16


def test_a_rank_of_zero_in_the_configuration_is_named(
    make_adapter: Callable[..., Path], base: Path, tmp_path: Path
):
    adapter = make_adapter(base, tmp_path / "adapter")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 0}))
    with pytest.raises(
        ModelError, match=r"adapter_config\.json has lora_alpha=8 and r=0, the tensors"
    ):
        GritLM(base, adapter=adapter, **OPTIONS)
