"""Loading and saving: what is refused and why, what comes back the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertLMHeadModel, T5Config

from gritlm import GritLM
from gritlm.errors import InputError, ModelError
from gritlm.lm.hub.load import _require_decoder
from tests import tiny

TEXTS = ["The quick brown fox", "Water boils at 100 degrees", "Cats"]


@pytest.fixture
def copy(llama_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint folder to damage."""
    return shutil.copytree(llama_folder, tmp_path / "copy")


def refused(folder: Path, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        GritLM(folder, device="cpu")
    assert "\n" not in str(caught.value)


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes), encoding="utf-8")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_loads_embeds_and_writes(family, tiny_model):
    model = GritLM(tiny_model(family), dtype="float32", device="cpu")
    vectors = model.encode(TEXTS)
    assert np.isfinite(vectors).all()
    alone = np.stack([model.encode(text) for text in TEXTS])
    assert np.abs(vectors - alone).max() < 1e-5
    assert isinstance(model.chat("Hello", max_new_tokens=4), str)


def test_a_saved_folder_loads_with_gritlm_and_with_transformers(llama_folder, tmp_path):
    model = GritLM(
        llama_folder,
        pooling_method="weightedmean",
        attn="cccc",
        normalized=False,
        projection=8,
        dtype="float32",
        device="cpu",
    )
    model.save_pretrained(tmp_path / "out")
    back = GritLM(tmp_path / "out", dtype="float32", device="cpu")
    assert back.settings == model.settings
    assert np.array_equal(back.encode(TEXTS), model.encode(TEXTS))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = torch.tensor([[1, 5, 9]])
    with torch.inference_mode():
        assert torch.equal(plain(ids).logits, model.lm.causal(ids).logits)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_a_folder_without_settings_gets_those_of_the_reference(llama_folder):
    settings = GritLM(llama_folder, device="cpu").settings
    found = (settings.pooling_method, settings.attn, settings.normalized, settings.max_length)
    assert found == ("mean", "bbcc", True, 512)


def test_arguments_win_over_the_settings_of_the_folder(copy):
    (copy / "gritlm.json").write_text('{"pooling_method": "cls", "normalized": false}')
    assert GritLM(copy, device="cpu").settings.pooling_method == "cls"
    chosen = GritLM(copy, pooling_method="mean", normalized=True, device="cpu").settings
    assert (chosen.pooling_method, chosen.normalized) == ("mean", True)


def test_a_tokenizer_without_template_chats_in_our_format(copy):
    (copy / "chat_template.jinja").unlink()
    model = GritLM(copy, dtype="float32", device="cpu")
    messages = [{"role": "user", "content": "Hi"}]
    text = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == "<s><|user|>\nHi\n<|assistant|>\n"


def test_both_names_of_the_number_format_work(llama_folder):
    assert GritLM(llama_folder, torch_dtype=torch.bfloat16, device="cpu").dtype == torch.bfloat16
    assert GritLM(llama_folder, torch_dtype="auto", device="cpu").dtype == torch.float32
    assert GritLM(llama_folder, dtype="bfloat16", device="cpu").dtype == torch.bfloat16
    with pytest.raises(TypeError, match="one of the two"):
        GritLM(llama_folder, dtype="float32", torch_dtype="bfloat16")
    with pytest.raises(InputError, match="dtype='int8'"):
        GritLM(llama_folder, dtype="int8")


def test_settings_that_ask_for_our_format_change_the_template_of_the_tokenizer(copy):
    (copy / "gritlm.json").write_text('{"template": "gritlm"}')
    model = GritLM(copy, dtype="float32", device="cpu")
    messages = [{"role": "system", "content": "Short."}, {"role": "user", "content": "Hi"}]
    read = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert read == model.chat_ids(messages)


def test_a_tokenizer_that_puts_no_bos_gets_none_from_our_template(copy):
    edit(copy / "tokenizer.json", post_processor=None)
    (copy / "gritlm.json").write_text('{"template": "gritlm"}')
    model = GritLM(copy, dtype="float32", device="cpu")
    assert model.tokenizer.bos_token == "<s>"
    read = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True
    )["input_ids"]
    assert read == model.chat_ids("Hi")
    assert read[0] != model.tokenizer.bos_token_id


def test_weights_that_are_no_numbers_are_refused(copy):
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"].fill_(float("nan"))
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    refused(copy, "non-finite states")


def test_tokens_that_were_never_used_do_not_mislead_the_check(copy):
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    tensors["model.embed_tokens.weight"][:100] = 0
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert GritLM(copy, device="cpu").encode("some text").shape == (48,)


def test_attention_that_ours_lacks_is_refused(tmp_path):
    from transformers import GptOssConfig

    config = GptOssConfig(
        vocab_size=400,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        head_dim=12,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
        num_experts_per_tok=1,
        max_position_embeddings=256,
        rope_scaling=None,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    refused(tmp_path, "'s_aux'")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_length": "512"}, "max_length='512'"),
        ({"normalized": "no"}, "normalized='no'"),
        ({"version": 99}, "version=99"),
        ({"pooling_method": "avg"}, "pooling_method='avg'"),
    ],
)
def test_a_wrong_setting_names_the_file(copy, settings, said):
    (copy / "gritlm.json").write_text(json.dumps(settings), encoding="utf-8")
    refused(copy, f"gritlm.json: {said}")


def test_published_repositories_that_name_remote_code_use_the_native_class(copy):
    edit(copy / "config.json", auto_map={"AutoModelForCausalLM": "modeling_gritlm7b.Evil"})
    (copy / "modeling_gritlm7b.py").write_text("raise SystemExit('remote code ran')")
    assert type(GritLM(copy, device="cpu").model).__name__ == "LlamaForCausalLM"


def test_a_model_that_is_only_remote_code_is_refused(copy):
    edit(copy / "config.json", model_type="secret", auto_map={"AutoConfig": "secret.Config"})
    (copy / "secret.py").write_text("raise SystemExit('remote code ran')")
    refused(copy, "asks for code from the checkpoint")


def test_remote_code_cannot_be_switched_on(llama_folder):
    with pytest.raises(InputError, match="trust_remote_code=True is not accepted"):
        GritLM(llama_folder, trust_remote_code=True)


def test_a_folder_without_weights_is_refused(copy):
    (copy / "model.safetensors").unlink()
    refused(copy, r"no \*.safetensors file")


def test_a_truncated_weights_file_is_refused(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4096])
    refused(copy, "truncated or damaged")


def test_pickled_weights_are_refused(copy):
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    refused(copy, "only .bin")


def test_missing_tensors_are_refused(copy):
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    refused(copy, "1 tensors are not in the checkpoint")


def test_an_encoder_is_refused(tmp_path):
    config = BertConfig(
        vocab_size=400,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    )
    BertLMHeadModel(config).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    refused(tmp_path, "'bert' is not a decoder")
    with pytest.raises(ModelError, match="'t5' is not a decoder"):
        _require_decoder(T5Config(), "somewhere")


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    refused(tmp_path, "no config.json")


def test_a_name_that_cannot_be_fetched_says_so(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="neither a folder here nor a model"):
        GritLM("nobody/nothing-of-this-name", local_files_only=True)


def test_a_broken_settings_file_is_named(copy):
    (copy / "gritlm.json").write_text('{"pooling_methd": "mean"}')
    refused(copy, "unknown key 'pooling_methd'; did you mean 'pooling_method'")
    (copy / "gritlm.json").write_text("{")
    refused(copy, "no valid JSON")


def test_an_embedding_checkpoint_cannot_write(llama_folder, tmp_path):
    GritLM(llama_folder, mode="embedding", device="cpu").save_pretrained(tmp_path / "bare")
    refused(tmp_path / "bare", "mode='embedding'")
    assert GritLM(tmp_path / "bare", mode="embedding", device="cpu").encode("x").shape == (48,)


def test_a_full_disk_while_saving_leaves_the_folder_as_it_was(copy, monkeypatch):
    model = GritLM(copy, dtype="float32", device="cpu")
    before = {path.name: path.read_bytes() for path in copy.iterdir()}

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model.tokenizer), "save_pretrained", full_disk)
    with pytest.raises(OSError, match="No space"):
        model.save_pretrained(copy)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_an_unknown_device_is_refused(llama_folder):
    with pytest.raises(InputError, match="device='gpu'"):
        GritLM(llama_folder, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no CUDA device"):
            GritLM(llama_folder, device="cuda")


def test_sizes_are_told(grit):
    config = AutoConfig.from_pretrained(grit.source)
    assert grit.kv_bytes_per_token() == 2 * 3 * 2 * 12 * 4
    assert grit.num_parameters() == sum(p.numel() for p in grit.model.parameters())
    assert grit.memory_bytes() >= 4 * grit.num_parameters()
    assert grit.max_length == config.max_position_embeddings
