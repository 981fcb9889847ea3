"""The code around the flash kernel of a GPU, with a kernel of the same interface on the CPU."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from gritlm import GritLM
from gritlm.lm.attention import packed
from gritlm.lm.generator import prefix_cache
from gritlm.lm.kv.cache import fixed
from gritlm.lm.unified import UnifiedLM
from tests import tiny

TEXTS = ["The quick brown fox", "Water", "Cats sleep most of the day.", "Ann has a ball"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    folder = tiny.folder(tmp_path_factory.mktemp("wide"), hidden_size=64, head_dim=16)
    return GritLM(folder, dtype="float32", device="cpu")


def kernel(calls: list[Tensor]):
    """Return a stand-in that attends within borders, scaled by 1/sqrt(E) as the kernel does."""

    def attend(query, key, value, borders, other_borders, most, other_most):
        assert borders is other_borders
        assert (most, other_most) == (borders.diff().max(), borders.diff().max())
        calls.append(borders)
        mixed = []
        for start, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
            parts = (x[start:end].transpose(0, 1) for x in (query, key, value))
            mixed.append(torch.nn.functional.scaled_dot_product_attention(*parts))
        return torch.cat(mixed, dim=1).transpose(0, 1)

    return attend


def test_texts_go_to_the_kernel_in_one_call_with_borders_made_once(model, monkeypatch):
    lm = model.lm
    rows = [model.tokenizer(text)["input_ids"] for text in TEXTS]
    lengths = [len(row) for row in rows]
    ids_T = torch.tensor([i for row in rows for i in row])
    with torch.no_grad():
        looped_TD = lm._concatenated(lm.bidirectional, ids_T, lengths, None, None)
    calls: list[Tensor] = []
    monkeypatch.setattr(packed, "_has_varlen_kernel", lambda _: True)
    monkeypatch.setattr(varlen, "varlen_attn", kernel(calls))
    with torch.inference_mode():
        packed_TD = lm._concatenated(lm.bidirectional, ids_T, lengths, None, None)
    torch.testing.assert_close(packed_TD, looped_TD, atol=1e-5, rtol=1e-5)
    assert len(calls) == lm.config.num_hidden_layers
    assert all(borders is calls[0] for borders in calls)
    assert calls[0].dtype == torch.int32
    assert calls[0].tolist() == [0, *np.cumsum(lengths)]
    assert not calls[0].is_inference(), "a training pass saves it for its backward pass"


def test_another_scale_is_applied_to_the_queries(monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", kernel([]))
    query, key, value = torch.randn(3, 1, 2, 7, 16, generator=torch.Generator().manual_seed(0))
    for scaling in (None, 16**-0.5, 0.1):
        ours = packed._varlen(query, key, value, [3, 4], scaling)
        for part in (slice(0, 3), slice(3, 7)):
            q, k, v = (x[:, :, part] for x in (query, key, value))
            theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scaling)
            torch.testing.assert_close(ours[:, part], theirs.transpose(1, 2))


@pytest.mark.parametrize(
    ("width", "dtype", "capability", "takes"),
    [
        (64, torch.bfloat16, (9, 0), True),
        (128, torch.float16, (8, 0), True),
        (64, torch.float32, (9, 0), False),
        (64, torch.float16, (7, 5), False),  # Turing has no flash kernel
        (12, torch.bfloat16, (9, 0), False),
        (512, torch.bfloat16, (9, 0), False),
    ],
)
def test_the_kernel_is_used_where_it_runs(monkeypatch, width, dtype, capability, takes):
    packed._has_flash.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    query = SimpleNamespace(
        is_cuda=True, dtype=dtype, shape=(1, 2, 7, width), device=torch.device("cuda")
    )
    assert packed._has_varlen_kernel(query) is takes
    packed._has_flash.cache_clear()


def test_several_blocks_fill_a_static_cache(model):
    """Its length is a tensor, on a GPU one of the GPU."""
    lm = UnifiedLM(model.model)
    _, blocks = model.encode(TEXTS[:2], get_cache=True)
    lm.new_cache = lambda capacity: fixed(lm.config, capacity)
    cache = prefix_cache(lm, blocks, room=4)
    plain = prefix_cache(model.lm, blocks, room=4)
    tokens = sum(block.tokens for block in blocks)
    assert int(cache.get_seq_length()) == tokens
    for ours, theirs in zip(cache.layers, plain.layers, strict=True):
        assert torch.equal(ours.keys[:, :, :tokens], theirs.keys[:, :, :tokens])
