"""Adapters with a tokenizer, a chat template, added tokens or resized embeddings of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from gritlm import GritLM
from gritlm.errors import ModelError
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore")

OPTIONS: dict[str, Any] = {"dtype": "float32", "device": "cpu"}
ADDED = ["<|tool|>", "<|call|>", "<|done|>"]
SIZE = 400 + len(ADDED)
IDS = torch.tensor([[1, 5, 9, 400, 402, 17]])
TEMPLATE = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(tie_word_embeddings=request.param)


def tokenizer_with(tokens: list[str], *, special: bool = True) -> PreTrainedTokenizerFast:
    made = tiny.tokenizer()
    made.add_tokens(tokens, special_tokens=special)
    return made


def make(
    base: Path,
    folder: Path,
    *,
    size: int = SIZE,
    embeddings: Any = "auto",
    tokenizer: PreTrainedTokenizerFast | None = None,
    **settings: Any,
) -> Path:
    """Write a random adapter for a base whose embeddings were resized."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if size != len(model.get_input_embeddings().weight):
        model.resize_token_embeddings(size, mean_resizing=False)
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]} | settings
    adapted = get_peft_model(model, LoraConfig(**config))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    adapted.save_pretrained(folder, save_embedding_layers=embeddings)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def logits_of_peft(base: Path, adapter: Path, size: int = SIZE) -> torch.Tensor:
    from peft import PeftModel

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain.resize_token_embeddings(size, mean_resizing=False)
    with torch.inference_mode():
        return PeftModel.from_pretrained(plain, adapter)(IDS).logits


def logits(model: GritLM) -> torch.Tensor:
    with torch.inference_mode():
        return model.lm.logits(IDS)


def refused(base: Path, adapter: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        GritLM(base, adapter=adapter, **OPTIONS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"trainable_token_indices": [400, 401, 402]},
    ],
    ids=["lora", "saved both", "saved head", "lora embed", "lora both", "tokens"],
)
def test_added_tokens_and_their_embeddings_are_read(base, tmp_path, settings):
    adapter = make(base, tmp_path / "adapter", tokenizer=tokenizer_with(ADDED), **settings)
    targets = settings.get("target_modules", [])
    is_tied = json.loads((base / "config.json").read_text())["tie_word_embeddings"]
    if "embed_tokens" in targets and "lm_head" not in targets and not is_tied:
        refused(base, adapter, "does not bring those of the added tokens")  # PEFT leaves them out
        return
    expected = logits_of_peft(base, adapter)
    for model in (GritLM(base, adapter=adapter, **OPTIONS), GritLM(adapter, **OPTIONS)):
        assert (logits(model) - expected).abs().max() < 1e-5 * expected.abs().max()
        assert model.tokenizer.convert_tokens_to_ids(ADDED) == [400, 401, 402]
        assert model.chat("Hello", max_new_tokens=2) is not None
    model.save_pretrained(tmp_path / "saved")
    back = GritLM(tmp_path / "saved", **OPTIONS)
    assert torch.equal(logits(back), logits(model))
    assert back.tokenizer.convert_tokens_to_ids(ADDED) == [400, 401, 402]


def test_added_tokens_without_their_embeddings_are_refused(base, tmp_path):
    adapter = make(base, tmp_path / "one", embeddings=False, target_modules=["lm_head"])
    refused(base, adapter, "made for 403 tokens, the base has 400 embeddings")
    adapter = make(base, tmp_path / "two", size=400, tokenizer=tokenizer_with(["tool"], special=0))
    refused(base, adapter, "'tool' has the id 400, the model has 400 embeddings")


def test_added_tokens_that_are_all_trained_need_no_other_embeddings(base, tmp_path):
    rows = {"embed_tokens": [400, 401, 402], "lm_head": [400, 401, 402]}
    adapter = make(base, tmp_path / "adapter", embeddings=False, trainable_token_indices=rows)
    expected = logits_of_peft(base, adapter)
    found = logits(GritLM(base, adapter=adapter, **OPTIONS))
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_an_added_token_that_is_not_trained_needs_its_embedding(base, tmp_path):
    adapter = make(base, tmp_path / "adapter", embeddings=False, trainable_token_indices=[400, 402])
    refused(base, adapter, "made for 403 tokens, the base has 400 embeddings")


def test_embeddings_without_the_unused_rows_of_the_base_are_read(tiny_model, tmp_path):
    wide = tiny_model(vocab_size=448)
    model = GritLM(wide, adapter=make(wide, tmp_path / "adapter"), **OPTIONS)
    assert model.model.config.vocab_size == model.lm.logits(IDS).shape[-1] == SIZE


def test_another_vocabulary_is_refused(base, tmp_path):
    other = tiny.tokenizer()
    content = json.loads(other.backend_tokenizer.to_str())
    vocab = content["model"]["vocab"]
    vocab["!"], vocab["$"] = vocab["$"], vocab["!"]
    adapter = make(base, tmp_path / "adapter", size=400, tokenizer=other)
    (adapter / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    refused(base, adapter, r"its tokenizer gives '[$!]' the id \d+, the base's \d+; load")
    vocab["!"], vocab["$"] = vocab["$"], vocab["!"]
    vocab["own"] = vocab.pop("$")
    (adapter / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    refused(base, adapter, r"is 'own' in its tokenizer and '\$' in the base's")


def test_a_reserved_token_of_the_base_may_get_a_name(tmp_path):
    base = tiny.folder(tmp_path / "base", vocab_size=SIZE)
    tokenizer_with(ADDED).save_pretrained(base)
    named = tokenizer_with(["<|search|>", *ADDED[1:]])
    adapter = make(base, tmp_path / "adapter", tokenizer=named)
    model = GritLM(base, adapter=adapter, **OPTIONS)
    assert model.tokenizer.convert_tokens_to_ids("<|search|>") == 400
    swapped = tokenizer_with([ADDED[1], ADDED[0], ADDED[2]])
    adapter = make(base, tmp_path / "swapped", tokenizer=swapped)
    refused(base, adapter, r"gives '<\|call\|>' the id 400, the base's 401")


def test_the_chat_template_of_the_adapter_is_used(base, tmp_path):
    with_tokenizer = tiny.tokenizer()
    with_tokenizer.chat_template = TEMPLATE
    whole = make(base, tmp_path / "whole", size=400, tokenizer=with_tokenizer)
    alone = make(base, tmp_path / "alone", size=400)
    (alone / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    older = make(base, tmp_path / "older", size=400)
    (older / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    for adapter in (whole, alone, older):
        model = GritLM(base, adapter=adapter, **OPTIONS)
        assert model.tokenizer.decode(model.chat_ids("Hi")) == "[Hi]", adapter


def test_a_tokenizer_without_template_keeps_that_of_the_base(base, tmp_path):
    bare = tiny.tokenizer()
    bare.chat_template = None
    adapter = make(base, tmp_path / "adapter", size=400, tokenizer=bare)
    assert GritLM(base, adapter=adapter, **OPTIONS).tokenizer.chat_template == tiny.CHAT


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer_of_the_adapter_is_named(base, tmp_path, name):
    adapter = make(base, tmp_path / "adapter", size=400, tokenizer=tiny.tokenizer())
    (adapter / name).write_text("{", encoding="utf-8")
    refused(base, adapter, "adapter: ")


def test_a_checkpoint_whose_tokenizer_has_more_tokens_than_embeddings_is_refused(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "copy")
    tokenizer_with(["word"], special=False).save_pretrained(folder)
    with pytest.raises(ModelError, match="'word' has the id 400, the model has 400 embeddings"):
        GritLM(folder, **OPTIONS)
    tokenizer_with(["<|image|>"]).save_pretrained(folder)  # as some published models have it
    assert GritLM(folder, **OPTIONS).encode("an image").shape == (48,)
