"""Decode steps of several adapters: each row as its adapter computes it alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from gritlm import GritLM
from gritlm.lm.adapters.mixture import MOST, AdapterMixtures
from gritlm.lm.kv.slot_memory import SlotMemory
from gritlm.lm.unified import UnifiedLM
from gritlm.serve.engine.kv_slots import BatchedSlots, SeparateSlots

OPTIONS: dict[str, Any] = {"dtype": "float32", "device": "cpu"}
PROMPTS = [[1, 5, 9, 4, 30], [1, 7, 7], [1, 40, 41, 42, 43, 44, 45], [1, 9], [1, 5, 9, 4], [1, 8]]
CLOSE = 1e-5


@pytest.fixture(scope="module")
def models(
    tiny_model: Callable[..., Path],
    make_adapter: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., list[GritLM]]:
    """The base and two models with adapters, of a family; the second adapter with its settings."""

    def make(family: str = "llama", dtype: str = "float32", **settings: Any) -> list[GritLM]:
        base = tiny_model(family)
        folder = tmp_path_factory.mktemp("adapters")
        adapters = {
            "one": make_adapter(base, folder / "one"),
            "two": make_adapter(base, folder / "two", **({"r": 2, "lora_alpha": 6} | settings)),
        }
        model = GritLM(base, adapters=adapters, dtype=dtype, device="cpu")
        return [model, model.with_adapter("one"), model.with_adapter("two")]

    return make


def stepped(lms: Sequence[UnifiedLM], kind: Any = BatchedSlots, steps: int = 3) -> torch.Tensor:
    """Logits of all sequences after some steps together, one row for each prompt."""
    slots = kind(lms[0], len(PROMPTS), 32)
    held = []
    for prompt, lm in zip(PROMPTS, lms, strict=True):
        slot = slots.open((), lm)
        slots.prefill(slot, list(prompt), room=16)
        held.append(slot)
    for number in range(steps):
        logits = slots.step(held, [10 + number + row for row in range(len(held))])
    return torch.stack(list(logits)).float()


def alone(lms: Sequence[UnifiedLM]) -> torch.Tensor:
    """The same logits, each sequence by itself."""
    rows = []
    for row, (prompt, lm) in enumerate(zip(PROMPTS, lms, strict=True)):
        slots = SeparateSlots(lm, 1, 32)
        slot = slots.open(())
        slots.prefill(slot, list(prompt), room=16)
        for number in range(3):
            (logits_V,) = slots.step([slot], [10 + number + row])
        rows.append(logits_V)
    return torch.stack(rows).float()


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize("kind", [BatchedSlots, SeparateSlots])
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("qwen3", {"target_modules": ["q_proj", "lm_head", "down_proj"]}),
        ("llama", {"use_dora": True}),
        ("gpt_neox", {}),
    ],
    ids=["mixed", "mixed with a head", "not plain", "no lean pass"],
)
def test_rows_of_several_adapters_are_computed_as_each_alone(models, family, settings, kind):
    of = models(family, **settings)
    lms = [of[row % 3].lm for row in range(len(PROMPTS))]
    expected = alone(lms)
    assert float((stepped(lms, kind) - expected).abs().max() / expected.std()) < CLOSE


def test_a_step_of_several_adapters_is_one_pass_where_the_lean_pass_knows_the_base(
    models, monkeypatch
):
    passes = []
    step = SlotMemory.step

    def counted(self: SlotMemory, tokens: Sequence[int], *rest: Any, **more: Any) -> torch.Tensor:
        passes.append(len(tokens))
        return step(self, tokens, *rest, **more)

    monkeypatch.setattr(SlotMemory, "step", counted)
    lean = models()
    stepped([lean[row % 3].lm for row in range(6)], steps=2)
    assert passes == [6, 6]
    passes.clear()
    other = models("gpt_neox")
    stepped([other[row % 3].lm for row in range(6)], steps=1)
    assert passes == [2, 2, 2]


def test_in_bfloat16_rows_of_several_adapters_are_close_to_each_alone(models):
    of = models(dtype="bfloat16")
    lms = [of[row % 3].lm for row in range(len(PROMPTS))]
    together, expected = stepped(lms), alone(lms)
    assert torch.cosine_similarity(together, expected, dim=-1).min() > 0.999


def test_a_mixture_is_kept_while_its_adapters_run_and_made_again_after_a_change(models):
    of = [model.lm for model in models()]
    mixtures = AdapterMixtures()
    first = mixtures.view([of[1], of[0]])
    assert mixtures.view([of[0], of[1], of[1]]).__self__ is first.__self__
    grown = mixtures.view([of[1], of[2]])
    assert grown.__self__ is not first.__self__
    assert mixtures.view([of[0], of[2]]).__self__ is grown.__self__
    with torch.no_grad():
        next(p for name, p in of[2].causal.named_parameters() if "lora_B" in name).add_(1.0)
    assert mixtures.view([of[0], of[2]]).__self__ is not grown.__self__


def test_models_that_do_not_share_a_base_or_are_too_many_have_no_mixture(models, tiny_model):
    of = [model.lm for model in models()]
    other = GritLM(tiny_model(), **OPTIONS).lm
    assert AdapterMixtures().view([of[1], other]) is None
    many = [UnifiedLM(of[1].causal, base=of[0]) for _ in range(MOST)]
    assert AdapterMixtures().view([*of, *many]) is None
