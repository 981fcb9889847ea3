"""What only a GPU does: the varlen kernel, CUDA graphs, and agreement with the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gritlm import GritLM, gritlm_instruction
from gritlm.lm.attention import packed as attention
from gritlm.lm.generator import complete
from gritlm.lm.sampling import SamplingParams

pytestmark = pytest.mark.gpu

TEXTS = ["The quick brown fox", "Water", "Cats sleep most of the day. " * 8, "Ann has a ball"]
HEADER = gritlm_instruction("Find similar texts")


@pytest.fixture(scope="module")
def wide_folder(tiny_model: Callable[..., Path]) -> Path:
    """Heads of 64, a size that every flash kernel takes."""
    return tiny_model(hidden_size=256, num_attention_heads=4, head_dim=64)


def test_vectors_of_the_gpu_equal_those_of_the_cpu(wide_folder):
    gpu = GritLM(wide_folder, dtype="float32", device="cuda")
    cpu = GritLM(wide_folder, dtype="float32", device="cpu")
    ours, theirs = (model.encode(TEXTS, instruction=HEADER) for model in (gpu, cpu))
    assert np.abs(ours - theirs).max() < 1e-4


def test_the_varlen_kernel_equals_one_text_after_the_other(wide_folder, monkeypatch):
    model = GritLM(wide_folder, dtype="bfloat16", device="cuda")
    calls = []
    kernel = attention._varlen
    monkeypatch.setattr(attention, "_varlen", lambda *a: calls.append(1) or kernel(*a))
    packed = model.encode(TEXTS, instruction=HEADER)
    assert calls
    monkeypatch.setattr(attention, "_has_varlen_kernel", lambda _: False)
    looped = model.encode(TEXTS, instruction=HEADER)
    assert (packed * looped).sum(axis=1).min() > 0.999


def test_greedy_text_of_the_gpu_equals_that_of_transformers(wide_folder):
    model = GritLM(wide_folder, dtype="float32", device="cuda")
    ids = torch.randint(3, 400, (1, 11), generator=torch.Generator().manual_seed(2)).cuda()
    expected = model.model.generate(
        ids, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    ours = complete(
        model.lm, ids[0].tolist(), sampler=SamplingParams().sampler(), max_new_tokens=20
    )
    assert list(ours) == expected[0, 11:].tolist()


@pytest.mark.slow
def test_cuda_graphs_write_the_same_text(wide_folder):
    plain = GritLM(wide_folder, dtype="float32", device="cuda")
    compiled = GritLM(wide_folder, dtype="float32", device="cuda", compile=True)
    _, (block,) = plain.encode([TEXTS[2]], get_cache=True)
    for kv in (None, block):
        texts = {m.chat("What sleeps?", kv=kv, max_new_tokens=24) for m in (plain, compiled)}
        assert len(texts) == 1
