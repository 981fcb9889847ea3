"""``gritlm info`` states the model and the machine."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import torch
import transformers

import gritlm
from tests.lm.media.checkpoints import idefics3


def test_info_states_the_model_and_the_machine(run_model, model_folder: Path, lm):
    result = run_model("info", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "model": "llama",
        "source": str(model_folder),
        "adapter": None,
        "dtype": "float32",
        "dtype_reason": lm.dtype_reason,
        "quantization": None,
        "device": "cpu",
        "reads": "text",
        "parameters": lm.num_parameters(),
        "memory_bytes": lm.memory_bytes(),
        "embedding_dimension": 48,
        "layers": 3,
        "attention_heads": 4,
        "key_value_heads": 2,
        "max_length": 512,
        "context": 4096,
        "kv_bytes_per_token_bfloat16": 2 * 3 * 2 * 12 * 2,  # K and V, layers, heads, size, bytes
        "pooling": "mean",
        "normalized": True,
        "attention": "bbcc",
        "template": "tokenizer",
        "trained_to_embed": None,
        "gritlm": gritlm.__version__,
        "conflict": None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def test_info_is_readable_without_json(run_model):
    shown = dict(line.split(maxsplit=1) for line in run_model("info").stdout.splitlines())
    assert shown["adapter"] == "-"
    assert shown["normalized"] == "yes"
    assert shown["memory_bytes"].endswith("MiB)")


def test_info_shows_what_a_model_reads(run, tmp_path):
    result = run("info", "--json", "--model", str(idefics3(tmp_path)))
    facts = json.loads(result.stdout)
    assert (facts["model"], facts["reads"]) == ("idefics3", "text, image")


def test_the_number_format_asked_for_is_used(run, model_folder: Path):
    for dtype in ("bfloat16", "float32"):
        result = run("info", "--json", "--model", str(model_folder), "--dtype", dtype)
        assert json.loads(result.stdout)["dtype"] == dtype


def test_auto_is_the_number_format_of_the_checkpoint(run, model_folder: Path):
    facts = json.loads(run("info", "--json", "-m", str(model_folder), "--dtype", "auto").stdout)
    assert (facts["dtype"], facts["dtype_reason"]) == ("float32", "as stored in the checkpoint")


def test_threads_are_set(run_model):
    before = torch.get_num_threads()
    try:
        run_model("info", "--threads", str(before + 1))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
