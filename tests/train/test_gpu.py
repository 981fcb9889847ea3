"""Training where there is a GPU: one kernel for all texts, four bits, the losses of a CPU."""

from __future__ import annotations

import pytest

from gritlm import GritLM
from gritlm.train.trainer import train
from tests import tiny
from tests.train import runs

pytestmark = pytest.mark.gpu


def test_a_gpu_gives_the_course_of_a_cpu_in_float32(tmp_path):
    cpu = runs.make(tmp_path, rag=True, training={"device": "cpu"})
    gpu = runs.elsewhere(cpu, "gpu", device="cuda")
    train(cpu)
    train(gpu)
    runs.assert_same_course(cpu, gpu, 1e-3)


def test_texts_without_padding_are_trained_by_one_kernel(tmp_path):
    padded = runs.make(tmp_path, training={"bf16": True, "device": "cuda"})
    said = {"attn_implementation": "gritlm_both"}
    unpadded = runs.make(
        tmp_path,
        model=said,
        training={"bf16": True, "device": "cuda", "output_dir": str(tmp_path / "unpadded")},
    )
    train(padded)
    train(unpadded)
    runs.assert_same_course(padded, unpadded, 0.05)  # bfloat16


def test_adapters_are_trained_over_four_bits(tmp_path):
    pytest.importorskip("bitsandbytes")
    tiny.folder(tmp_path / "llama", hidden_size=128, intermediate_size=256)
    said = {"max_steps": 12, "learning_rate": 3e-3, "device": "cuda", "bf16": True}
    run = runs.make(tmp_path, model={"qlora": True}, training=said)
    train(run)
    course = runs.losses(run)
    assert sum(e["loss_emb"] for e in course[-3:]) < sum(e["loss_emb"] for e in course[:3])
    assert GritLM(tmp_path / "out").encode("cats").any()
