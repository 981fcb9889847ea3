"""Several adapters over one base in memory: the answers of each alone, and the base unchanged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gritlm import GritLM
from gritlm.errors import CacheMismatchError, InputError, ModelError
from gritlm.lm.hub import lora
from gritlm.lm.lean.view import lean_forward_of
from tests import tiny

OPTIONS: dict[str, Any] = {"dtype": "float32", "device": "cpu"}
TEXTS = ["The quick brown fox", "Water boils at 100 degrees", "Cats"]
QUESTION = "Who has a red ball?"
CLOSE = 1e-5


@pytest.fixture(scope="module")
def two(
    make_adapter: Callable[..., Path], llama_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Two adapters of the tiny Llama, of different ranks and layers."""
    law = make_adapter(llama_folder, tmp_path_factory.mktemp("law"))
    settings = {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "up_proj"]}
    medicine = make_adapter(llama_folder, tmp_path_factory.mktemp("medicine"), **settings)
    return {"law": str(law), "medicine": str(medicine)}


@pytest.fixture(scope="module")
def shared(llama_folder: Path, two: dict[str, str]) -> GritLM:
    return GritLM(llama_folder, adapters=two, **OPTIONS)


def logits_of(model: GritLM) -> torch.Tensor:
    """Logits of a prompt, by the pass that inference takes."""
    with torch.inference_mode():
        return model.lm.logits(torch.tensor([model.chat_ids(QUESTION)]))


def require_same(one: GritLM, other: GritLM, close: float = CLOSE) -> None:
    """Vectors and logits are close, greedy text is equal."""
    assert np.abs(one.encode(TEXTS) - other.encode(TEXTS)).max() < close
    spread = logits_of(other).std()
    assert float((logits_of(one) - logits_of(other)).abs().max() / spread) < close
    assert one.chat(QUESTION, max_new_tokens=12) == other.chat(QUESTION, max_new_tokens=12)


@pytest.mark.parametrize("name", ["law", "medicine"])
def test_an_adapter_next_to_another_computes_what_it_computes_merged_and_alone(
    shared, llama_folder, two, name
):
    merged = GritLM(llama_folder, adapter=two[name], **OPTIONS)
    require_same(shared.with_adapter(name), merged)
    alone = GritLM(llama_folder, adapters={name: two[name]}, **OPTIONS)
    require_same(shared.with_adapter(name), alone.with_adapter(name), close=1e-9)


def test_the_base_computes_bit_for_bit_what_it_computes_without_adapters(shared, llama_folder, two):
    for name in two:
        shared.with_adapter(name).encode(TEXTS)
    plain = GritLM(llama_folder, **OPTIONS)
    assert np.array_equal(shared.encode(TEXTS), plain.encode(TEXTS))
    assert torch.equal(logits_of(shared), logits_of(plain))
    assert shared.chat(QUESTION, max_new_tokens=12) == plain.chat(QUESTION, max_new_tokens=12)
    assert shared.lm.fingerprint == plain.lm.fingerprint


def test_adapters_change_the_answers(shared):
    models = [shared, shared.with_adapter("law"), shared.with_adapter("medicine")]
    vectors = [model.encode(TEXTS) for model in models]
    for one in range(3):
        for other in range(one):
            assert np.abs(vectors[one] - vectors[other]).max() > 1e-2


def test_the_weights_of_the_base_are_in_memory_once(shared, two):
    own = {p.data_ptr() for p in shared.model.parameters()}
    for name in two:
        model = shared.with_adapter(name).model
        added = [p for p in model.parameters() if p.data_ptr() not in own]
        assert len(added) + len(own) == len(list(model.parameters()))
        assert sum(p.numel() for p in added) < 0.4 * sum(
            p.numel() for p in shared.model.parameters()
        )
        assert all("lora" in key for key, p in model.named_parameters() if p.data_ptr() not in own)


def test_the_lean_pass_takes_plain_adapters_with_the_weights_of_the_base(shared):
    law = shared.with_adapter("law")
    lean = lean_forward_of(law.lm.decoding)
    assert lean is not None
    base = lean_forward_of(shared.lm.decoding)
    assert base is not None
    assert lean.weights.embedding is base.weights.embedding
    ids = torch.tensor([law.chat_ids(QUESTION)])
    with torch.inference_mode():
        own = law.lm.causal(ids).logits
        assert float((law.lm.decoding(ids).logits - own).abs().max() / own.std()) < CLOSE


def test_an_adapter_has_the_same_fingerprint_merged_or_not(shared, llama_folder, two):
    for name, folder in two.items():
        merged = GritLM(llama_folder, adapter=folder, **OPTIONS)
        assert shared.with_adapter(name).lm.fingerprint == merged.lm.fingerprint


def test_a_block_of_one_adapter_is_refused_by_another(shared):
    law = shared.with_adapter("law")
    _, blocks = law.encode(TEXTS[:1], get_cache=True)
    assert law.chat(QUESTION, kv=blocks[0], max_new_tokens=2)
    for other in (shared, shared.with_adapter("medicine")):
        with pytest.raises(CacheMismatchError, match="was made by model"):
            other.chat(QUESTION, kv=blocks[0], max_new_tokens=2)


def test_a_name_gives_the_same_model_each_time(shared):
    law = shared.with_adapter("law")
    assert shared.with_adapter("law") is law
    assert law.with_adapter("medicine") is shared.with_adapter("medicine")
    assert law.with_adapter(None) is shared
    assert law.shares_base_with(shared)
    assert shared.adapters == law.adapters == ("law", "medicine")


def test_models_over_one_base_may_be_used_from_several_threads(llama_folder, two):
    fresh = GritLM(llama_folder, adapters=two, **OPTIONS)
    models = [fresh.with_adapter(name) for name in (None, *two)]
    expected = [model.chat(QUESTION, max_new_tokens=8) for model in models]
    again = GritLM(llama_folder, adapters=two, **OPTIONS)
    models = [again.with_adapter(name) for name in (None, *two)]
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(models[i % 3].chat, QUESTION, max_new_tokens=8) for i in range(18)]
    assert [job.result() for job in jobs] == expected * 6


@pytest.mark.parametrize(
    "family",
    ["mistral", "qwen3", "mixtral", "gemma2", "phi3", "gpt_neox"],
)
def test_other_families_take_adapters_too(tiny_model, make_adapter, tmp_path, family):
    base = tiny_model(family)
    layers = ["q_proj", "v_proj"] if family == "mixtral" else "all-linear"
    folder = make_adapter(base, tmp_path / "adapter", target_modules=layers)
    model = GritLM(base, adapters={"own": folder}, **OPTIONS).with_adapter("own")
    require_same(model, GritLM(base, adapter=folder, **OPTIONS))


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"rank_pattern": {"q_proj": 2}},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head", "q_proj"]},
    ],
    ids=str,
)
def test_adapters_that_are_no_plain_lora_are_taken_too(
    make_adapter, llama_folder, tmp_path, settings
):
    folder = make_adapter(llama_folder, tmp_path / "adapter", **settings)
    model = GritLM(llama_folder, adapters={"own": folder}, **OPTIONS)
    require_same(model.with_adapter("own"), GritLM(llama_folder, adapter=folder, **OPTIONS))
    plain = GritLM(llama_folder, **OPTIONS)
    assert np.array_equal(model.encode(TEXTS), plain.encode(TEXTS))


def test_in_bfloat16_an_adapter_is_close_to_the_merged_one(llama_folder, two):
    options = {"dtype": "bfloat16", "device": "cpu"}
    shared = GritLM(llama_folder, adapters=two, **options)
    for name, folder in two.items():
        merged = GritLM(llama_folder, adapter=folder, **options)
        found = (shared.with_adapter(name).encode(TEXTS) * merged.encode(TEXTS)).sum(axis=1)
        assert found.min() > 0.999
        assert shared.with_adapter(name).lm.fingerprint == merged.lm.fingerprint


def test_a_model_without_a_head_takes_adapters(llama_folder, two, shared):
    embedding = GritLM(llama_folder, adapters=two, mode="embedding", **OPTIONS)
    for name in (None, "law"):
        model = embedding.with_adapter(name)
        assert not model.lm.has_head
        assert np.abs(model.encode(TEXTS) - shared.with_adapter(name).encode(TEXTS)).max() < CLOSE


def test_the_model_of_an_adapter_folder_stays_unmerged_next_to_others(llama_folder, two):
    model = GritLM(
        llama_folder, adapter=two["law"], adapters={"medicine": two["medicine"]}, **OPTIONS
    )
    merged = {name: GritLM(llama_folder, adapter=folder, **OPTIONS) for name, folder in two.items()}
    require_same(model, merged["law"])
    require_same(model.with_adapter("medicine"), merged["medicine"])
    assert model.with_adapter("medicine").with_adapter(None) is model


def test_an_adapter_for_embeddings_leaves_the_chats_as_they_are(llama_folder, two):
    plain = GritLM(llama_folder, **OPTIONS)
    law = GritLM(llama_folder, adapter=two["law"], **OPTIONS)
    model = GritLM(llama_folder, embed_adapter=two["law"], **OPTIONS)
    assert np.abs(model.encode(TEXTS) - law.encode(TEXTS)).max() < CLOSE
    assert torch.equal(logits_of(model), logits_of(plain))
    assert model.chat(QUESTION, max_new_tokens=12) == plain.chat(QUESTION, max_new_tokens=12)
    assert model.lm.fingerprint == plain.lm.fingerprint
    assert not model.shares_embedding_pass


def test_blocks_of_an_adapter_for_embeddings_are_those_of_the_base(llama_folder, two):
    plain = GritLM(llama_folder, attn="cccc", **OPTIONS)
    model = GritLM(llama_folder, embed_adapter=two["law"], **OPTIONS)
    _, (block,) = model.encode(TEXTS[:1], get_cache=True)
    _, (expected,) = plain.encode(TEXTS[:1], get_cache=True)
    assert block.causal
    assert torch.equal(block.data, expected.data)
    assert model.chat(QUESTION, kv=block, max_new_tokens=8) == plain.chat(
        QUESTION, kv=expected, max_new_tokens=8
    )


def test_an_adapter_for_embeddings_serves_every_adapter_that_chats(llama_folder, two):
    model = GritLM(
        llama_folder, adapters={"law": two["law"]}, embed_adapter=two["medicine"], **OPTIONS
    )
    law = GritLM(llama_folder, adapter=two["law"], **OPTIONS)
    medicine = GritLM(llama_folder, adapter=two["medicine"], **OPTIONS)
    chosen = model.with_adapter("law")
    assert chosen.chat(QUESTION, max_new_tokens=12) == law.chat(QUESTION, max_new_tokens=12)
    assert np.abs(chosen.encode(TEXTS) - medicine.encode(TEXTS)).max() < CLOSE


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_an_adapter_with_tokens_of_its_own_does_not_change_the_base(
    llama_folder, make_adapter, tmp_path
):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["<law>"])
    base = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.float32)
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    get_peft_model(base, config).save_pretrained(tmp_path / "law")
    tokenizer.save_pretrained(tmp_path / "law")
    model = GritLM(llama_folder, adapters={"law": tmp_path / "law"}, **OPTIONS)
    before = model.encode(TEXTS)
    law = model.with_adapter("law")
    assert law.lm.vocabulary_size == len(tokenizer) == model.lm.vocabulary_size + 1
    assert len(law.chat_ids("<law>")) < len(model.chat_ids("<law>"))
    require_same(law, GritLM(llama_folder, adapter=tmp_path / "law", **OPTIONS))
    assert np.array_equal(model.encode(TEXTS), before)
    with pytest.raises(ModelError, match="its tokenizer has 401 tokens"):
        GritLM(llama_folder, embed_adapter=tmp_path / "law", **OPTIONS)


def test_an_adapter_of_another_base_is_refused_in_a_line(two, tmp_path):
    other = tiny.folder(tmp_path / "other", seed=5, hidden_size=24)
    with pytest.raises(ModelError) as refused:
        GritLM(other, adapters=two, **OPTIONS)
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(two["law"])
    assert "was made for" in message
    assert str(other) in message
    assert "its model.layers.0.mlp.down_proj has 24 outputs, the adapter's 48" in message


def test_an_adapter_with_the_fingerprint_of_another_base_is_refused(llama_folder, two, tmp_path):
    folder = shutil.copytree(two["law"], tmp_path / "law")
    tensors = load_file(folder / lora.WEIGHTS_FILE)
    save_file(tensors, folder / lora.WEIGHTS_FILE, metadata={lora.FINGERPRINT: "0" * 64})
    for chosen in ({"adapters": {"law": folder}}, {"embed_adapter": folder}, {"adapter": folder}):
        with pytest.raises(ModelError, match="the sizes are the same, the weights are others"):
            GritLM(llama_folder, **chosen, **OPTIONS)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda m: m.with_adapter("laws"), "no adapter 'laws'; did you mean 'law'"),
        (lambda m: m.with_adapter("law").save_pretrained("x"), "is not merged into the base"),
        (lambda m: m.with_adapter("law").export("x"), "is not merged into the base"),
    ],
    ids=["unknown name", "save", "export"],
)
def test_what_a_shared_base_cannot_do_is_refused(shared, call, expected):
    with pytest.raises(InputError, match=expected):
        call(shared)


def test_a_whole_model_is_no_adapter(llama_folder):
    for chosen in ({"adapter": llama_folder}, {"adapters": {"law": llama_folder}}):
        with pytest.raises(ModelError, match="it holds a whole model, so load it as the model"):
            GritLM(llama_folder, **chosen, **OPTIONS)


@pytest.mark.gpu
def test_on_a_gpu_an_adapter_computes_what_it_computes_merged(llama_folder, two):
    options = {"dtype": "float32", "device": "cuda"}
    shared = GritLM(llama_folder, adapters=two, **options)
    for name, folder in two.items():
        model, merged = shared.with_adapter(name), GritLM(llama_folder, adapter=folder, **options)
        assert np.abs(model.encode(TEXTS) - merged.encode(TEXTS)).max() < 1e-4
        assert model.chat(QUESTION, max_new_tokens=8) == merged.chat(QUESTION, max_new_tokens=8)


def test_other_refusals(llama_folder, two, grit):
    with pytest.raises(InputError, match="loaded without named adapters"):
        grit.with_adapter("law")
    with pytest.raises(InputError, match="has no effect with mode='generative'"):
        GritLM(llama_folder, embed_adapter=two["law"], mode="generative", **OPTIONS)
    with pytest.raises(InputError, match="one set of weights cannot"):
        GritLM(llama_folder, embed_adapter=two["law"], **OPTIONS).save_pretrained("x")
    with pytest.raises(InputError, match="an adapter has an empty name"):
        GritLM(llama_folder, adapters={"": two["law"]}, **OPTIONS)


def test_the_default_model_is_its_base_with_the_adapter_named_default(default_folder):
    """The store of one is the store of the other. Merged weights in bfloat16 are rounded."""
    assert default_folder.is_dir()
    model = GritLM("base", adapters={"gritlm": "default"}, device="cpu").with_adapter("gritlm")
    whole = GritLM(device="cpu")
    assert model.lm.fingerprint == whole.lm.fingerprint
    assert model.settings == whole.settings
    assert (model.encode(TEXTS) * whole.encode(TEXTS)).sum(axis=1).min() > 0.995
