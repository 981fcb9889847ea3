"""Formats that a machine lacks and options that exclude each other are refused by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPTJConfig

from gritlm import GritLM
from gritlm.errors import GritLMError, InputError, MissingExtraError, ModelError
from gritlm.lm.hub.placement import Placement
from gritlm.lm.quantization import requirements

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def folder(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(hidden_size=64, intermediate_size=128)


REFUSED = [
    ({"quantization": "int3"}, "quantization='int3'"),
    ({"quantization": "nf4"}, "needs a CUDA GPU and bitsandbytes.*take int8 or int4"),
    ({"quantization": "fp8"}, "needs a CUDA GPU of compute capability 8.9.*take int8 or int4"),
    ({"quantization": "int8", "device_map": "auto", "device": None}, "leave device_map out"),
    ({"quantization": "int8", "quantization_config": {"a": 1}}, "give one of the two"),
    ({"quantization": "int4", "compile": True}, "compile=True and quantization='int4'"),
    ({"quantization": "int8", "dtype": "float16"}, "take bfloat16 and float32"),
    ({"quantization": "int8", "tensor_parallel_size": 2}, "leave one of the two out"),
    ({"tensor_parallel_size": 0}, "tensor_parallel_size"),
    ({"tensor_parallel_size": 2, "device_map": "auto", "device": None}, "leave one of them out"),
    ({"tensor_parallel_size": 2, "tp_plan": "auto"}, "leave one of them out"),
    ({"tensor_parallel_size": 2}, "torchrun started 1; run torchrun --nproc-per-node 2"),
    ({"tensor_parallel_size": 3}, "does not divide num_attention_heads=4"),
    ({"tensor_parallel_size": 4}, "does not divide num_key_value_heads=2"),
    ({"tensor_parallel_size": 2, "adapter": "some/adapter"}, "merged into whole layers"),
    ({"quantization": "int8", "adapters": {"a": "b"}}, "pass one adapter, which is merged"),
    ({"quantization": "int4", "embed_adapter": "b"}, "pass one adapter, which is merged"),
    ({"tensor_parallel_size": 2, "embed_adapter": "b"}, "and adapters or embed_adapter"),
    ({"device_map": "most"}, "device_map='most'"),
    ({"device_map": "auto", "device": "cpu"}, "device='cpu' and device_map='auto'"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_combinations_are_refused_in_one_line(folder, options, message):
    with pytest.raises(GritLMError, match=message) as error:
        GritLM(folder, **{"device": "cpu", **options})
    assert "\n" not in str(error.value)


def test_every_refusal_is_in_the_docs():
    text = re.sub(r"\s+", " ", Path("docs/serving.md").read_text(encoding="utf-8"))
    for words in (
        "quantization` and `device_map` on a CPU",
        "quantization` and `tensor_parallel_size",
        "quantization` and `compile",
        "tensor_parallel_size` and `device_map",
        "tensor_parallel_size` and an adapter",
    ):
        assert words in text, words


def test_a_family_without_a_plan_is_not_divided(tmp_path):
    GPTJConfig(n_layer=1, n_head=4, n_embd=64).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="'gptj' has no plan of tensor parallelism"):
        GritLM(tmp_path, device="cpu", tensor_parallel_size=2)


def test_int4_refuses_sizes_that_its_kernel_does_not_take(tiny_model):
    with pytest.raises(ModelError, match=r"q_proj: int4 takes .* has 48 and .*take .*int8"):
        GritLM(tiny_model(), device="cpu", dtype="float32", quantization="int4")


def test_int8_refuses_sizes_that_its_kernel_does_not_take(tiny_model):
    folder = tiny_model(hidden_size=40, num_attention_heads=5, num_key_value_heads=5)
    with pytest.raises(ModelError, match=r"q_proj: int8 takes .* has 40 and .*leave quantization"):
        GritLM(folder, device="cpu", dtype="float32", quantization="int8")


def test_experts_are_not_quantised(tiny_model):
    with pytest.raises(ModelError, match=r"takes models of linear layers.*leave quantization out"):
        GritLM(tiny_model("mixtral"), device="cpu", dtype="float32", quantization="int8")


def test_quantised_checkpoints_are_not_quantised_again(folder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"quantised already .bitsandbytes."):
        GritLM(copy, device="cpu", quantization="int8")


def test_device_map_auto_computes_the_same(folder):
    placed = GritLM(folder, device_map="auto", dtype="float32")
    plain = GritLM(folder, device="cpu", dtype="float32")
    if torch.cuda.is_available():
        pytest.skip("the layers are on a GPU here")
    assert abs(placed.encode("Cats sleep") - plain.encode("Cats sleep")).max() < 1e-6
    assert placed.chat("Why?", max_new_tokens=6) == plain.chat("Why?", max_new_tokens=6)


# A GPU is only imitated below: what is checked is the choice of the configuration.


@pytest.fixture
def gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(requirements, "find_spec", lambda _: object())


def prepared(quantization: str, adapter: str | None = None) -> dict:
    options: dict = {}
    Placement("cuda", quantization).prepare(CUDA, options, adapter=adapter)
    return options


def test_on_a_gpu_transformers_quantises(gpu):
    nf4 = prepared("nf4")
    assert nf4["quantization_config"].bnb_4bit_quant_type == "nf4"
    assert nf4["quantization_config"].load_in_4bit
    assert nf4["device_map"] == {"": CUDA}
    assert prepared("int8")["quantization_config"].load_in_8bit


def test_on_a_gpu_the_rest_is_refused(gpu, monkeypatch):
    with pytest.raises(ModelError, match="'int4' runs on a CPU only; on a GPU take nf4"):
        prepared("int4")
    with pytest.raises(ModelError, match=r"8.9 or higher, this one has 8.0; take int8 or nf4"):
        prepared("fp8")
    with pytest.raises(InputError, match="before an adapter could be merged"):
        prepared("nf4", adapter="some/adapter")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    assert type(prepared("fp8")["quantization_config"]).__name__ == "FineGrainedFP8Config"
    monkeypatch.setattr(requirements, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="bitsandbytes"):
        prepared("nf4")


def test_no_format_runs_on_mps():
    with pytest.raises(ModelError, match="no format runs on mps"):
        Placement("mps", "int8").prepare(torch.device("mps"), {}, adapter=None)


def test_max_model_len_bounds_texts_and_answers(folder):
    model = GritLM(folder, device="cpu", dtype="float32", max_model_len=20)
    assert model.lm.max_positions == 20
    assert model.max_length == 20
    with pytest.raises(InputError, match="20"):
        model.chat("Why? " * 20)
    with pytest.raises(InputError, match="max_model_len=300, the model takes at most 256"):
        GritLM(folder, device="cpu", max_model_len=300)
    with pytest.raises(InputError, match="max_model_len"):
        GritLM(folder, device="cpu", max_model_len=0)
