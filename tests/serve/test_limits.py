"""The length of a prompt and its answer that the memory of KV slots allows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gritlm.serve.engine.limits import Limits

GIB = 2**30


def model(device: str, kib_per_token: int) -> SimpleNamespace:
    return SimpleNamespace(
        device=torch.device(device),
        lm=SimpleNamespace(max_positions=32_768),
        kv_bytes_per_token=lambda: 1024 * kib_per_token,
    )


@pytest.mark.parametrize(
    ("free", "tokens"),
    [
        (80 * GIB, 4096),
        (6 * GIB, 3072),  # half of it, for eight slots of 128 KiB a token
        (GIB // 4, 256),  # the least, which may not fit
    ],
)
def test_slots_of_a_gpu_leave_half_of_its_free_memory(monkeypatch, free, tokens):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * GIB))
    assert Limits().length_for(model("cuda", 128)) == tokens


def test_slots_of_a_cpu_have_two_gib():
    assert Limits().length_for(model("cpu", 128)) == 2048
    assert Limits(max_num_seqs=64).length_for(model("cpu", 128)) == 256
