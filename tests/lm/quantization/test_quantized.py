"""Quantised weights on a CPU: kernels, the lean pass, identity, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gritlm import GritLM
from gritlm.errors import CacheMismatchError, ModelError
from gritlm.lm.lean.view import lean_forward_of
from gritlm.lm.quantization.layers import JointWeight, QuantizedLinear, joint_of
from gritlm.lm.quantization.matrices import GROUP, Int4Weight, Int8Weight, LowRank

FORMATS = ("int8", "int4")
TEXTS = ["The quick brown fox", "Water boils at 100 degrees.", "Cats sleep most of the day. " * 6]
# Cosine of the vectors to those of the whole weights, on random weights.
CLOSE = {"int8": 0.998, "int4": 0.85}


@pytest.fixture(scope="module")
def folder(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="module", params=FORMATS)
def quantized(request: pytest.FixtureRequest, folder: Path) -> GritLM:
    return GritLM(folder, dtype="bfloat16", device="cpu", quantization=request.param)


@pytest.fixture(scope="module")
def whole(folder: Path) -> GritLM:
    return GritLM(folder, dtype="bfloat16", device="cpu")


def rounded(weight: Int8Weight | Int4Weight, inputs: int) -> torch.Tensor:
    """Return the weight (N, K) that the kernel multiplies by."""
    return weight.multiply(torch.eye(inputs)).T


@pytest.mark.parametrize("kind", [Int8Weight, Int4Weight])
def test_a_weight_is_rounded_by_at_most_half_a_step(kind):
    torch.manual_seed(0)
    weight_NK = torch.randn(64, 96)
    error_NK = (rounded(kind.of(weight_NK, copied=False), 96) - weight_NK).abs()
    if kind is Int8Weight:
        step_NK = (weight_NK.abs().amax(1, keepdim=True) / 127).expand_as(weight_NK)
    else:
        groups = weight_NK.unflatten(1, (-1, GROUP))
        step_NK = ((groups.amax(2) - groups.amin(2)) / 15).repeat_interleave(GROUP, dim=1)
    assert (error_NK <= 0.51 * step_NK + 1e-6).all()
    assert error_NK.max() > 0.3 * step_NK.max()  # it is quantised indeed


@pytest.mark.parametrize("kind", [Int8Weight, Int4Weight])
@pytest.mark.parametrize("rows", [1, 4, 5, 8, 9, 49, 70])
def test_the_copy_for_many_rows_computes_what_the_kernel_does(kind, rows):
    torch.manual_seed(0)
    weight_NK = torch.randn(64, 96, dtype=torch.bfloat16)
    x_MK = torch.randn(rows, 96, dtype=torch.bfloat16)
    plain = kind.of(weight_NK, copied=False).multiply(x_MK).float()
    copied = kind.of(weight_NK, copied=True).multiply(x_MK).float()
    assert (plain - copied).norm() < 0.01 * plain.norm()


@pytest.mark.parametrize("kind", [Int8Weight, Int4Weight])
def test_a_token_of_a_text_is_multiplied_alike_in_texts_of_all_lengths(kind):
    torch.manual_seed(0)
    joint = JointWeight(kind.of(torch.randn(64, 96, dtype=torch.bfloat16), copied=True), None)
    x_1TK = torch.randn(1, 40, 96, dtype=torch.bfloat16)
    whole = joint(x_1TK)
    for size in (2, 3, 5, 17):
        assert torch.equal(joint(x_1TK[:, :size]), whole[:, :size])


@pytest.mark.parametrize("kind", [Int8Weight, Int4Weight])
def test_a_step_is_the_same_for_a_sequence_alone_and_next_to_others(kind):
    torch.manual_seed(0)
    joint = JointWeight(kind.of(torch.randn(64, 96, dtype=torch.bfloat16), copied=True), None)
    x_B1K = torch.randn(8, 1, 96, dtype=torch.bfloat16)
    together = joint(x_B1K)
    for row in range(8):
        assert torch.equal(joint(x_B1K[row : row + 1]), together[row : row + 1])


def test_4_bits_keep_the_factors_of_an_adapter_apart():
    torch.manual_seed(0)
    base_NK = rounded(Int4Weight.of(torch.randn(64, 96), copied=False), 96)  # has 4 bits already
    down_RK = 0.02 * torch.randn(8, 96)
    up_NR = torch.randn(64, 8)
    merged_NK = base_NK + up_NR @ down_RK
    low_rank = LowRank.of(down_RK, up_NR)
    apart = rounded(Int4Weight.of(merged_NK, copied=False, low_rank=low_rank), 96) - merged_NK
    without = rounded(Int4Weight.of(merged_NK, copied=False), 96) - merged_NK
    assert apart.norm() < 0.1 * without.norm()
    part = Int4Weight.of(merged_NK.repeat(2, 1), copied=False).rows(64, 128)
    assert part.low_rank is None


@pytest.mark.parametrize("kind", [Int8Weight, Int4Weight])
def test_a_part_of_the_outputs_shares_the_values(kind):
    torch.manual_seed(0)
    weight = kind.of(torch.randn(192, 96), copied=False)
    x_MK = torch.randn(3, 96)
    part = weight.rows(64, 128)
    assert part.values.untyped_storage().data_ptr() == weight.values.untyped_storage().data_ptr()
    assert torch.allclose(part.multiply(x_MK), weight.multiply(x_MK)[:, 64:128], atol=1e-5)


def test_a_zero_weight_stays_zero():
    for kind in (Int8Weight, Int4Weight):
        y = kind.of(torch.zeros(64, 64), copied=False).multiply(torch.randn(2, 64))
        assert y.abs().max() < 1e-9


def test_vectors_are_close_to_those_of_the_whole_weights(quantized, whole):
    ours, theirs = (model.encode(TEXTS) for model in (quantized, whole))
    cosine = (ours * theirs).sum(axis=1)
    assert (cosine > CLOSE[quantized.quantization]).all()
    assert (cosine < 0.999999).any()


def test_the_lean_pass_runs_on_fused_quantised_weights(quantized):
    lean = lean_forward_of(quantized.lm.decoding)
    layer = lean._decoder.weights.layers[0]
    assert all(
        isinstance(each, JointWeight)
        for each in (layer.query_key_value, layer.out, layer.gate_up, layer.down)
    )
    attention = quantized.lm.decoder.layers[0].self_attn
    assert joint_of([attention.q_proj]) is None
    assert joint_of([attention.q_proj, attention.k_proj, attention.v_proj]) is not None


@pytest.mark.parametrize("quantization", FORMATS)
def test_the_lean_pass_equals_the_layers_of_the_model(folder, quantization):
    model = GritLM(folder, dtype="float32", device="cpu", quantization=quantization)
    ids = torch.tensor([list(range(5, 25))])
    with torch.inference_mode():
        theirs = model.lm.causal(ids).logits
        ours = model.lm.decoding(ids).logits
    assert (ours - theirs).abs().max() < 1e-4


def test_runs_are_equal_bit_by_bit(quantized):
    once, again = (quantized.encode(TEXTS) for _ in range(2))
    assert np.array_equal(once, again)
    answers = {quantized.chat("Why?", max_new_tokens=8) for _ in range(3)}
    assert len(answers) == 1


def test_a_batch_changes_vectors_no_more_than_whole_weights_do(quantized, whole):
    def moved(model: GritLM) -> float:
        together = model.encode(TEXTS)
        alone = np.stack([model.encode(text) for text in TEXTS])
        return float(np.abs(together - alone).max())

    assert moved(quantized) <= 2 * moved(whole) + 4e-3


def test_blocks_of_other_weights_are_refused(quantized, whole):
    _, block = whole.encode("Water boils.", get_cache=True)
    with pytest.raises(CacheMismatchError, match="made by model"):
        quantized.chat("Why?", kv=block, max_new_tokens=2)
    _, own = quantized.encode("Water boils.", get_cache=True)
    assert isinstance(quantized.chat("Why?", kv=own, max_new_tokens=2), str)


def test_each_format_has_its_own_fingerprint(folder, quantized, whole):
    others = {
        GritLM(folder, dtype=dtype, quantization=name).lm.fingerprint
        for name in FORMATS
        for dtype in ("bfloat16", "float32")
    }
    assert len(others) == 4
    assert quantized.lm.fingerprint in others
    assert whole.lm.fingerprint not in others


def test_parameters_are_counted_and_take_less_memory(quantized, whole):
    assert quantized.num_parameters() == whole.num_parameters()
    assert quantized.memory_bytes() < 0.6 * whole.memory_bytes()


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma3", "phi", "gpt_neox"])
@pytest.mark.parametrize("quantization", FORMATS)
def test_families_with_biases_and_without_the_lean_pass(tiny_model, family, quantization):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    folder = tiny_model(family, **sizes)
    options = {"dtype": "float32", "device": "cpu"}
    ours = GritLM(folder, quantization=quantization, **options).encode(TEXTS)
    theirs = GritLM(folder, **options).encode(TEXTS)
    assert ((ours * theirs).sum(axis=1) > CLOSE[quantization]).all()


def test_an_adapter_is_merged_before(folder, make_adapter, tmp_path):
    adapter = make_adapter(folder, tmp_path / "adapter")
    options = {"dtype": "float32", "device": "cpu"}
    merged = tmp_path / "merged"
    GritLM(folder, adapter=adapter, **options).save_pretrained(merged)
    ours = GritLM(folder, adapter=adapter, quantization="int8", **options)
    theirs = GritLM(merged, quantization="int8", **options)
    assert ours.lm.fingerprint == theirs.lm.fingerprint
    assert np.array_equal(ours.encode(TEXTS), theirs.encode(TEXTS))


def test_a_tied_head_is_quantised_and_counted_once(tiny_model):
    folder = tiny_model(hidden_size=64, intermediate_size=128, tie_word_embeddings=True)
    whole = GritLM(folder, dtype="float32", device="cpu")
    ours = GritLM(folder, dtype="float32", device="cpu", quantization="int8")
    assert ours.num_parameters() == whole.num_parameters()
    embedding = ours.lm.decoder.get_input_embeddings().weight
    assert torch.equal(embedding, whole.lm.decoder.get_input_embeddings().weight)
    ids = torch.tensor([[1, 40, 41]])
    with torch.inference_mode():
        error = (ours.lm.logits(ids) - whole.lm.logits(ids)).abs().max()
    assert 0 < error < 0.1 * whole.lm.logits(ids).abs().max()


def test_adapters_over_the_same_4_bits_have_other_fingerprints(folder, make_adapter, tmp_path):
    adapter = make_adapter(folder, tmp_path / "adapter", target_modules=["q_proj", "down_proj"])
    options = {"dtype": "bfloat16", "device": "cpu", "quantization": "int4"}
    ours = GritLM(folder, adapter=adapter, **options)
    assert ours.num_parameters() == GritLM(folder, **options).num_parameters()
    assert ours.lm.fingerprint != GritLM(folder, **options).lm.fingerprint
    assert ours.lm.decoder.layers[0].self_attn.q_proj.joint.weight.low_rank is not None
    assert ours.lm.decoder.layers[0].self_attn.o_proj.joint.weight.low_rank is None
    ids = torch.tensor([[1, 40, 41, 42]])
    with torch.inference_mode():
        cache = ours.lm.new_cache(8)
        steps = [ours.lm.logits(ids[:, [i]], cache=cache)[0, 0] for i in range(4)]
        together = ours.lm.logits(ids)[0]
    for step, one in zip(steps, together, strict=True):
        assert torch.cosine_similarity(step.float(), one.float(), dim=0) > 0.999


@pytest.mark.parametrize("mode", ["embedding", "generative"])
def test_modes(folder, whole, mode):
    model = GritLM(folder, mode=mode, dtype="bfloat16", quantization="int8")
    if mode == "embedding":
        assert ((model.encode(TEXTS) * whole.encode(TEXTS)).sum(axis=1) > CLOSE["int8"]).all()
    else:
        assert isinstance(model.chat("Why?", max_new_tokens=3), str)
        assert isinstance(model.lm.causal.lm_head, QuantizedLinear)


def test_a_quantised_model_is_not_written(quantized, tmp_path):
    for write in (
        lambda: quantized.save_pretrained(tmp_path / "a"),
        lambda: quantized.export(tmp_path / "b", form="chat"),
        lambda: quantized.export(tmp_path / "c.gguf", form="gguf"),
    ):
        with pytest.raises(ModelError, match="cannot be written"):
            write()
    assert list(tmp_path.iterdir()) == []


def test_a_quantised_model_is_not_trained_or_moved(folder):
    model = GritLM(folder, dtype="bfloat16", device="cpu", quantization="int8")
    layer = model.lm.decoder.layers[0].self_attn.o_proj
    with pytest.raises(ModelError, match="no gradients"):
        layer(torch.randn(1, 64, dtype=torch.bfloat16, requires_grad=True))
    with pytest.raises(ModelError, match="cannot be moved or converted"):
        model.model.to(torch.float32)


def test_generate_of_transformers_and_blocks_use_the_quantised_weights(quantized):
    ids = torch.tensor([[1, 40, 41, 42]])
    once, again = (quantized.generate(ids, max_new_tokens=4, do_sample=False) for _ in range(2))
    assert once.tolist() == again.tolist()
    assert once.shape[1] <= 8


def test_without_room_for_copies_the_kernels_do_all(folder, monkeypatch, quantized):
    from gritlm.lm.quantization import layers

    monkeypatch.setattr(layers, "_copies_fit", lambda *_: False)
    plain = GritLM(folder, dtype="bfloat16", quantization=quantized.quantization)
    cosine = (plain.encode(TEXTS) * quantized.encode(TEXTS)).sum(axis=1)
    assert (cosine > 0.999).all()
