"""Models that the lean pass leaves alone, and weights that change after it was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gritlm.lm.lean.view import lean_forward_of, lean_view
from gritlm.lm.unified import UnifiedLM, WeightVersion
from tests import tiny

PROMPT = torch.tensor([[5, 9, 7, 200, 31]])


class OtherLinear(nn.Linear):
    """A layer of another library, such as a quantised one."""


def with_lora(model: Any) -> Any:
    """Return a model into which an adapter with random weights was put; it is changed in place."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    return inject_adapter_in_model(config, model)


def with_other_linear(model: Any) -> Any:
    layer = model.model.layers[1].mlp
    other = OtherLinear(layer.up_proj.in_features, layer.up_proj.out_features, bias=False)
    other.weight = layer.up_proj.weight
    layer.up_proj = other
    return model


def with_hook(model: Any) -> Any:
    model.model.layers[1].self_attn.register_forward_hook(lambda _, __, output: output)
    return model


def with_own_forward(model: Any) -> Any:
    model.model.layers[0].mlp.forward = lambda x: x
    return model


def with_own_class(model: Any) -> Any:
    """Return a model with a layer of a class of the same name."""
    kind = type(model.model.layers[0])
    model.model.layers[0].__class__ = type(kind.__name__, (kind,), {})
    return model


def with_eager_attention(model: Any) -> Any:
    model.set_attn_implementation("eager")
    return model


CHANGES: list[Callable[[Any], Any]] = [
    with_lora,
    with_other_linear,
    with_hook,
    with_own_forward,
    with_own_class,
    with_eager_attention,
    lambda model: model.half(),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_keeps_its_own_pass(change):
    assert lean_view(tiny.model(), packed=False) is not None
    assert lean_view(change(tiny.model()), packed=False) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
        {"hidden_act": "gelu"},
    ],
)
def test_a_configuration_that_it_does_not_know_keeps_its_own_pass(changes):
    assert lean_view(tiny.model(**changes), packed=False) is None


def test_hooks_that_transformers_sets_itself_change_nothing():
    model = tiny.model()
    with torch.inference_mode():
        model(PROMPT, output_hidden_states=True, output_attentions=False)
    assert model.model.layers[0]._forward_hooks
    assert lean_view(model, packed=False) is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_that_is_put_in_later_is_seen(dtype):
    lm = UnifiedLM(tiny.model().to(dtype))
    with torch.inference_mode():
        before = lm.logits(PROMPT)
    assert lean_forward_of(lm.decoding) is not None
    with_lora(lm.causal)
    with torch.inference_mode():
        after, plain = lm.logits(PROMPT), lm.causal(PROMPT).logits
    assert lean_forward_of(lm.decoding) is None
    assert (after - plain).abs().max() < 0.03 * plain.abs().max()
    assert (before - plain).abs().max() > 0.1 * plain.abs().max()


def doubled(model: Any) -> None:
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(2)


def replaced_parameter(model: Any) -> None:
    down = model.model.layers[1].mlp.down_proj
    down.weight = nn.Parameter(down.weight.detach() * 2)


def replaced_module(model: Any) -> None:
    mlp = model.model.layers[1].mlp
    new = nn.Linear(mlp.down_proj.in_features, mlp.down_proj.out_features, bias=False)
    new.weight = nn.Parameter(mlp.down_proj.weight.detach() * 2)
    mlp.down_proj = new.to(new.weight.dtype)


@pytest.mark.parametrize("change", [doubled, replaced_parameter, replaced_module])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_changed_weights_are_seen(change, dtype):
    lm = UnifiedLM(tiny.model().to(dtype))
    with torch.inference_mode():
        before = lm.logits(PROMPT), lm.hidden_packed(PROMPT[0], [5])
        version = lm._version.current()
        assert lm._version.current() == version
    change(lm.causal)
    assert lm._version.current() != version
    with torch.inference_mode():
        after = lm.logits(PROMPT), lm.hidden_packed(PROMPT[0], [5])
        plain = lm.causal(PROMPT).logits, UnifiedLM(lm.causal).hidden_packed(PROMPT[0], [5])
    for ours, theirs, old in zip(after, plain, before, strict=True):
        assert (ours - theirs).abs().max() < 0.02 * theirs.abs().max()
        assert (old - theirs).abs().max() > 0.05 * theirs.abs().max()


def test_the_version_of_untouched_weights_stays():
    model = tiny.model()
    version = WeightVersion(model)
    first = version.current()
    model.train().eval()
    with torch.inference_mode():
        model(PROMPT)
    assert version.current() == first


@pytest.mark.parametrize("trains", [True, False])
def test_dropout_of_training_is_not_left_out(trains):
    """Two passes of a model that is trained with dropout differ, also without gradients."""
    lm = UnifiedLM(tiny.model("llama", attention_dropout=0.5))
    for view in (lm.causal, lm.bidirectional):
        view.train(trains)
    ids_1L = torch.arange(5, 25)[None]
    with torch.inference_mode():
        one, other = (lm.logits(ids_1L) for _ in range(2))
        text, again = (lm.hidden_packed(ids_1L[0], [20]) for _ in range(2))
    assert torch.equal(one, other) is not trains
    assert torch.equal(text, again) is not trains
