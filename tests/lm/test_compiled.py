"""Compiled steps: equal to the lean pass, alike for every number of rows and threads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from gritlm import GritLM
from gritlm.errors import InputError, ModelError
from gritlm.lm.compiled import steps as compiled_steps
from gritlm.lm.generator import prefill, prefill_with_logits
from gritlm.lm.kv.slot_memory import SlotMemory
from gritlm.lm.lean.view import lean_forward_of
from gritlm.lm.unified import UnifiedLM
from tests import tiny

pytest.importorskip("numba", reason="compiled steps need the extra compiled")

# Heads of 16 and rows of 64 and 96: whole vectors, and a rest of one and two after four of them.
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
IDS = [5, 9, 7, 11, 23, 42, 8, 301, 77, 5, 9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("model"), **SIZES)


@pytest.fixture(scope="module")
def models(folder: Path) -> tuple[GritLM, GritLM]:
    """The same model without and with compiled steps, in float32."""
    options = {"dtype": "float32", "device": "cpu"}
    return GritLM(folder, **options), GritLM(folder, compile=True, **options)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def uses_steps(model: GritLM) -> bool:
    forward = lean_forward_of(model.lm.decoding)
    return forward is not None and forward._step is not None


def steps(model: GritLM, ids: list[int], sizes: list[int]) -> torch.Tensor:
    """Logits after a prompt that is read in passes of these sizes."""
    cache = model.lm.new_cache(4)  # it has to grow
    found = [prefill(model.lm, cache, ids[: sizes[0]])[None]]
    at = sizes[0]
    for size in sizes[1:]:
        found.append(prefill_with_logits(model.lm, cache, ids[at : at + size]))
        at += size
    return torch.cat(found)


def test_steps_are_those_of_the_lean_pass(models):
    plain, fast = models
    assert uses_steps(fast)
    assert not uses_steps(plain)
    assert (fast.lm.compiled_rows, plain.lm.compiled_rows) == (4, 0)
    ours, theirs = (steps(model, IDS, [4, 1, 1, 2, 3]) for model in (fast, plain))
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_the_text_is_the_same(models):
    plain, fast = models
    for text in ("Bob has a blue car.", "What sleeps?", "a"):
        options = {"max_new_tokens": 24, "ignore_eos": True}
        assert fast.chat(text, **options) == plain.chat(text, **options)


def test_a_row_is_the_same_for_every_number_of_rows(models):
    _, fast = models
    alone = steps(fast, IDS, [5, 1, 1, 1, 1, 1, 1])
    for sizes in ([5, 2, 4], [5, 3, 3]):
        assert torch.equal(steps(fast, IDS, sizes)[1:], alone[1:])


def test_a_row_is_the_same_for_every_number_of_threads(models):
    _, fast = models
    alone = steps(fast, IDS, [5, 1, 3, 2])
    torch.set_num_threads(3)
    assert torch.equal(steps(fast, IDS, [5, 1, 3, 2])[1:], alone[1:])


def test_sequences_of_different_length_in_kv_slots(models):
    plain, fast = models
    texts = {0: IDS, 1: IDS[3:], 3: IDS[:4]}
    found = []
    for model in (plain, fast):
        memory = SlotMemory(model.lm, 4, 32)
        for slot, ids in texts.items():
            prefill(model.lm, memory.cache(slot, 0), ids)
        held = [len(ids) for ids in texts.values()]
        found.append(memory.step([2, 4, 6], list(texts), held))
        alone = memory.step([6], [3], [4])
        assert torch.equal(alone[0], found[-1][2]) or model is plain
    theirs, ours = found
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"quantization": "int8"}])
def test_other_weights_are_near_their_lean_pass(folder, options):
    plain = GritLM(folder, device="cpu", **options)
    fast = GritLM(folder, device="cpu", compile=True, **options)
    assert uses_steps(fast)
    ours, theirs = (steps(model, IDS, [4, 1, 1, 2, 3]).float() for model in (fast, plain))
    assert (ours - theirs).abs().max() < 0.03 * theirs.abs().max()


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen3", {}),
        ("mistral", SIZES),  # with a sliding window
        ("llama", {"intermediate_size": 104}),
        ("llama", {**SIZES, "attention_bias": True}),
        ("llama", {**SIZES, "vocab_size": 401}),
    ],
)
def test_models_that_cannot_be_compiled_are_known(family, changes):
    assert not compiled_steps.takes(tiny.model(family, **changes))


def test_models_on_other_devices_have_the_steps_of_torch():
    assert not compiled_steps.takes(tiny.model("llama", **SIZES).to("meta"))


def test_a_kernel_that_cannot_be_compiled_leaves_the_plain_steps(folder, monkeypatch, caplog):
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no code for this processor")

    monkeypatch.setattr(compiled_steps.CompiledStep, "logits", fails)
    model = GritLM(folder, dtype="float32", device="cpu", compile=True)
    assert not uses_steps(model)
    assert "steps of decoding are not compiled" in caplog.text
    assert model.chat("a", max_new_tokens=2) is not None


def test_mistral_without_a_window_can_be_compiled():
    assert compiled_steps.takes(tiny.model("mistral", **SIZES, sliding_window=None))


def test_without_numba_quantised_steps_are_refused_in_a_line(folder, monkeypatch):
    find = importlib.util.find_spec
    absent = lambda name, *more: None if name == "numba" else find(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    with pytest.raises(ModelError, match=r"numba.*\[compiled\]"):
        GritLM(folder, device="cpu", compile=True, quantization="int8")


def test_without_numba_a_line_names_the_other_compiler(monkeypatch, caplog):
    monkeypatch.setattr(compiled_steps, "has_numba", lambda: False)
    lm = UnifiedLM(tiny.model("llama", **SIZES), compiled=True)
    assert lm.compiled
    (record,) = caplog.records
    assert "without numba" in record.getMessage()
    assert "[compiled]" in record.getMessage()


def test_int4_is_not_compiled(folder):
    with pytest.raises(InputError, match="int8 alone is compiled"):
        GritLM(folder, device="cpu", compile=True, quantization="int4")
