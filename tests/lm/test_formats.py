"""Models for other programs: GGUF for llama.cpp, folders for chats, model cards, uploads."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers as hf
from huggingface_hub import HfApi, ModelCard

from gritlm import CardFacts, CardScore, GritLM
from gritlm.errors import GritLMError, InputError, ModelError
from gritlm.lm.hub.formats.gguf_vocabulary import _splitting
from gritlm.lm.hub.model_config import ModelSettings
from gritlm.prompts import EMBED
from tests import tiny

SIZES = {"hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": 512}
QUESTION = "What colour is the ball?"
QWEN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"


def loaded(folder: Path, family: str = "llama", **changes: object) -> GritLM:
    made = tiny.folder(folder, family, **(SIZES | changes))
    return GritLM(made, device="cpu", dtype="float32")


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(path).tensors
    }


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8_0", "q4_0"])
def test_a_gguf_file_is_read_back_as_the_same_model(tmp_path, tied, dtype):
    model = loaded(tmp_path / "model", tie_word_embeddings=tied)
    model.export(tmp_path / "out" / "model.gguf", form="gguf", dtype=dtype)
    back = hf.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", gguf_file="model.gguf", dtype=torch.float32
    )
    ids = torch.tensor([model.chat_ids(QUESTION)])
    with torch.inference_mode():
        ours = model.model(ids).logits
        theirs = back(ids).logits
    error = (ours - theirs).abs().max() / ours.abs().max()
    assert error < {"f32": 1e-5, "bf16": 0.03, "q8_0": 0.05, "q4_0": 0.8}[dtype]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_every_tensor_of_a_family_is_written_once(family, tmp_path):
    model = loaded(tmp_path / "model", family)
    model.export(tmp_path / "a.gguf", form="gguf", dtype="f32")
    held = tensors(tmp_path / "a.gguf")
    count = sum(value.numel() for value in model.model.state_dict().values())
    assert sum(value.size for value in held.values()) == count
    value = model.model.state_dict()["model.layers.0.mlp.gate_proj.weight"]
    assert np.array_equal(held["blk.0.ffn_gate.weight"], value.numpy())


def test_the_vocabulary_and_the_template_are_in_the_file(tmp_path):
    model = loaded(tmp_path / "model")
    model.export(tmp_path / "a.gguf", form="gguf")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    fields = {name: reader.get_field(name).contents() for name in reader.fields}
    assert fields["general.architecture"] == "llama"
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert fields["tokenizer.ggml.add_bos_token"] is False  # as its template of chats
    assert fields["tokenizer.ggml.tokens"][:3] == ["<pad>", "<s>", "</s>"]
    assert len(fields["tokenizer.ggml.tokens"]) == 400
    assert fields["tokenizer.ggml.token_type"][1] == gguf.TokenType.CONTROL
    assert fields["tokenizer.chat_template"] == model.tokenizer.chat_template


def plain(folder: Path) -> GritLM:
    """A model whose answers are of printable ASCII, as incomplete characters differ elsewhere."""
    made = tiny.model(**SIZES)
    tokenizer = tiny.tokenizer()
    with torch.no_grad():
        for number in range(400):
            text = tokenizer.decode([number])
            if not (text.isascii() and text.isprintable()):
                made.lm_head.weight[number] = 0
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return GritLM(folder, device="cpu", dtype="float32")


def llama_cpp(path: Path) -> dict[str, Any]:
    """Return the answer of llama.cpp to the question, greedy, with 24 tokens."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = 256
    params.n_parallel = 1
    params.warmup = False
    params.cpuparams.n_threads = 1
    params.hostnames = ["127.0.0.1"]
    asked = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    return xllamacpp.Server(params).handle_chat_completions(asked | {"max_tokens": 24})


@pytest.mark.parametrize("template", ["gritlm", "tokenizer"])
def test_llama_cpp_generates_the_same_chat(template, tmp_path):
    plain(tmp_path / "model")
    ModelSettings(template=template).save(tmp_path / "model")
    model = GritLM(tmp_path / "model", device="cpu", dtype="float32")
    model.export(tmp_path / "model.gguf", form="gguf", dtype="f32")
    found = llama_cpp(tmp_path / "model.gguf")
    assert found["choices"][0]["message"]["content"] == model.chat(QUESTION, max_new_tokens=24)
    assert found["usage"]["prompt_tokens"] == len(model.chat_ids(QUESTION))


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0", "q4_0"])
def test_llama_cpp_loads_every_type(dtype, tmp_path):
    model = plain(tmp_path / "model")
    model.export(tmp_path / "model.gguf", form="gguf", dtype=dtype)
    found = llama_cpp(tmp_path / "model.gguf")
    assert found["choices"][0]["message"]["content"]
    assert found["usage"]["prompt_tokens"] == len(model.chat_ids(QUESTION))


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (CONTRACTIONS + QWEN, "qwen2"),
        (CONTRACTIONS + QWEN.replace("{N}|", "{N}{1,3}|"), "llama-bpe"),
    ],
)
def test_known_ways_to_split_words_have_llama_cpps_names(pattern, name):
    mark = {"type": "Split", "pattern": {"String": EMBED}}
    split = {"type": "Split", "pattern": {"Regex": pattern}}
    last = {"type": "ByteLevel", "add_prefix_space": False}
    inner = {"type": "Sequence", "pretokenizers": [split, last]}
    pre = {"type": "Sequence", "pretokenizers": [mark, inner]}
    assert _splitting({"pre_tokenizer": pre}) == name
    assert _splitting({"pre_tokenizer": {**last, "add_prefix_space": True}}) is None
    assert _splitting({}) is None


def test_what_gguf_does_not_hold_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(ModelError, match=r"family 'gemma2' .* convert_hf_to_gguf\.py"):
        loaded(tmp_path / "gemma", "gemma2").export(tmp_path / "a.gguf", form="gguf")
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(ModelError, match="rope scaling 'linear'"):
        loaded(tmp_path / "rope", rope_parameters=scaled).export(tmp_path / "a.gguf", form="gguf")
    model = loaded(tmp_path / "quantised")
    model.model.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ModelError, match="GGUF of quantised weights is not written"):
        model.export(tmp_path / "a.gguf", form="gguf")
    model = loaded(tmp_path / "model")
    with pytest.raises(InputError, match="dtype='q4_k' is unknown; expected one of f32"):
        model.export(tmp_path / "a.gguf", form="gguf", dtype="q4_k")
    with pytest.raises(InputError, match="is a folder; pass the name of a file"):
        model.export(tmp_path, form="gguf")
    with pytest.raises(InputError, match="form='onnx' is unknown; expected one of folder, chat"):
        model.export(tmp_path / "out", form="onnx")
    assert not list(tmp_path.glob("*gguf*"))


def test_a_folder_for_chats_holds_merged_weights_and_nothing_for_vectors(
    tmp_path, tiny_model, make_adapter
):
    base = tiny_model()
    adapter = make_adapter(base, tmp_path / "adapter")
    model = GritLM(base, adapter=adapter, device="cpu", dtype="float32")
    model.export(tmp_path / "out", form="chat", facts=CardFacts(license="mit"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not names & {"modules.json", "sentence_bert_config.json", "adapter_config.json"}
    assert "README.md" in names
    other = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "out")
    turns = [{"role": "user", "content": QUESTION}]
    encoded = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    text = other.generate(**encoded, max_new_tokens=12, do_sample=False)
    new = tokenizer.decode(text[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    assert new == model.chat(QUESTION, max_new_tokens=12)
    assert GritLM(tmp_path / "out", device="cpu").chat(QUESTION, max_new_tokens=12) == new


FACTS = CardFacts(
    base_model="owner/base",
    license="apache-2.0",
    languages=("en", "de"),
    datasets=("owner/data",),
    scores=(CardScore("STSBenchmark", "STS", "cosine_spearman", 84.123456),),
)


def test_an_upload_has_the_folder_and_a_card_with_metadata(tmp_path, monkeypatch):
    model = loaded(tmp_path / "model")
    uploaded: dict[str, object] = {}

    def create_repo(self, repo_id, *, private, exist_ok):
        uploaded["repository"] = (repo_id, private, exist_ok, self.token)

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        uploaded["names"] = sorted(path.name for path in Path(folder_path).iterdir())
        uploaded["card"] = (Path(folder_path) / "README.md").read_text(encoding="utf-8")
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    address = model.push_to_hub("owner/grit", FACTS, token="hf_secret")
    assert address == "https://hub/owner/grit/commit/1"
    assert uploaded["repository"] == ("owner/grit", True, True, "hf_secret")
    assert {"config.json", "model.safetensors", "modules.json"} <= set(uploaded["names"])
    data = ModelCard(uploaded["card"]).data
    assert data.library_name == "sentence-transformers"
    assert "sentence-transformers" in data.tags
    assert (data.base_model, data.license, data.language) == (
        "owner/base",
        "apache-2.0",
        ["en", "de"],
    )
    assert data.datasets == ["owner/data"]
    (result,) = data.eval_results
    assert (result.dataset_name, result.metric_value) == ("STSBenchmark", 84.123)
    assert 'GritLM("owner/grit")' in uploaded["card"]


def test_a_hub_that_cannot_be_reached_or_a_wrong_name_is_one_error(tmp_path, monkeypatch):
    model = loaded(tmp_path / "model")
    with pytest.raises(GritLMError, match="a/b/c could not be uploaded: Repo id must"):
        model.push_to_hub("a/b/c")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(GritLMError, match="owner/grit could not be uploaded: "):
        model.push_to_hub("owner/grit", token="hf_secret")


def test_a_card_without_facts_leaves_them_out(tmp_path):
    loaded(tmp_path / "model").export(tmp_path / "out", facts=CardFacts())
    data = ModelCard((tmp_path / "out" / "README.md").read_text(encoding="utf-8")).data
    assert data.license is None
    assert data.eval_results is None
    assert json.loads((tmp_path / "out" / "modules.json").read_text())
