"""One module read in both ways against the two views that are served."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from gritlm.lm.attention import packed
from gritlm.lm.tokens import Prompt
from gritlm.lm.unified import UnifiedLM
from gritlm.train.data import packing
from gritlm.train.model import hidden_states
from tests import tiny
from tests.train.reading import distance, padded, prompts

BOUND = 1e-5
CASES = [(family, "eager") for family in tiny.FAMILIES] + [
    (family, "sdpa") for family in tiny.FAMILIES if family != "gemma2"
]


def _checkpointing(model: Any) -> Any:
    """transformers before 5.18 or so knows it by the older name only."""
    newer = getattr(model, "activation_checkpointing_enable", None)
    return newer or model.gradient_checkpointing_enable


def model(family: str, attention: str) -> PreTrainedModel:
    made = tiny.model(family)
    made.set_attn_implementation(attention)
    return made


def rows() -> tuple[Tensor, Tensor]:
    """Ids and mask of four texts of different lengths, all longer than a tiny sliding window."""
    return padded([Prompt(prompt.ids * 3) for prompt in prompts(4, seed=1)])


def gradients(decoder: PreTrainedModel, hidden: Tensor, mask: Tensor) -> dict[str, Tensor]:
    goal = torch.linspace(-1, 1, hidden.shape[-1])
    (hidden[mask.bool()] @ goal).sin().sum().backward()
    found = {n: p.grad.clone() for n, p in decoder.named_parameters() if p.grad is not None}
    decoder.zero_grad()
    return found


@pytest.mark.parametrize(("family", "attention"), CASES)
@pytest.mark.parametrize("causal", [False, True])
def test_what_is_trained_is_what_is_served(family, attention, causal):
    lm = UnifiedLM(model(family, attention))
    ids, mask = rows()
    ours = hidden_states.hidden(lm.decoder, ids, mask, causal=causal)
    served = lm.hidden(ids, mask, causal=causal)
    real = mask.bool()
    assert (ours - served)[real].abs().max() <= BOUND * served[real].abs().max()
    assert distance(gradients(lm.decoder, ours, mask), gradients(lm.decoder, served, mask)) <= BOUND


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("causal", [False, True])
def test_layers_computed_again_in_the_backward_pass_give_the_same_gradients(attention, causal):
    decoder = model("mistral", attention).base_model
    decoder.train()
    ids, mask = rows()
    expected = gradients(decoder, hidden_states.hidden(decoder, ids, mask, causal=causal), mask)
    _checkpointing(decoder)()
    calls = []
    decoder.layers[0].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    hidden = hidden_states.hidden(decoder, ids, mask, causal=causal)
    hidden_states.hidden(decoder, ids, mask, causal=not causal)  # the other way in between
    assert distance(gradients(decoder, hidden, mask), expected) <= BOUND
    assert len(calls) == 3


def test_reading_leaves_the_configuration_alone():
    decoder = model("mistral", "sdpa").base_model
    before = copy.deepcopy(decoder.config.to_dict())
    hidden_states.hidden(decoder, *rows(), causal=False)
    assert decoder.config.to_dict() == before


def test_without_padding_no_mask_is_needed():
    decoder = model("llama", "sdpa").base_model
    ids = rows()[0][:, :5]
    ours = hidden_states.hidden(decoder, ids, causal=False)
    assert torch.allclose(
        ours, hidden_states.hidden(decoder, ids, torch.ones_like(ids), causal=False)
    )


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
def test_packed_rows_are_written_as_their_mask_says(family, attention):
    decoder = model(family, attention).base_model
    rows = packing.packed([Prompt(prompt.ids) for prompt in prompts(6, seed=1)], capacity=40)
    one_BLL = rows.sample_BL[:, :, None] == rows.sample_BL[:, None, :]
    masked = replace(rows, seen_BLL=one_BLL & torch.ones_like(one_BLL[0]).tril())
    ours, theirs = (
        hidden_states.generative_states(decoder, rows),
        hidden_states.generative_states(decoder, masked),
    )
    real = rows.ids_BL != 0
    assert real.sum() < real.numel()
    assert (ours - theirs)[real].abs().max() <= BOUND * theirs[real].abs().max()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_written_blocks_computed_again_give_the_same_gradients(family, attention):
    decoder = model(family, attention).base_model
    decoder.train()
    ids, mask = rows()
    seen = torch.ones(len(ids), ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    seen[:, :9, :9] = True  # longer than the window
    given = replace(packing.padded([Prompt(row.tolist()) for row in ids]), seen_BLL=seen)
    expected = gradients(decoder, hidden_states.generative_states(decoder, given), mask)
    _checkpointing(decoder)()
    assert (
        distance(
            gradients(decoder, hidden_states.generative_states(decoder, given), mask), expected
        )
        <= BOUND
    )


def test_a_wrapped_decoder_is_written_with_like_the_bare_one():
    class Wrapped(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *args: Any, **options: Any) -> Any:
            return self.module(*args, **options)

    decoder = model("llama", "eager").base_model
    given = packing.padded([Prompt(prompt.ids) for prompt in prompts(3, seed=1)])
    given = replace(given, seen_BLL=torch.eye(given.ids_BL.shape[1]).bool().repeat(3, 1, 1))
    ours = hidden_states.generative_states(Wrapped(decoder), given)
    assert torch.equal(ours, hidden_states.generative_states(decoder, given))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "qwen3", "gpt_neox"])
def test_texts_without_padding_get_the_states_of_padded_ones(family):
    packed.register_both()
    plain, both = model(family, "sdpa").base_model, model(family, packed.BOTH).base_model
    ids, mask = rows()
    real, lengths = mask.bool(), mask.sum(dim=1).tolist()
    padded_BLD = hidden_states.hidden(plain, ids, mask, causal=False)
    packed_TD = hidden_states.hidden_packed(both, ids[real], lengths)
    bound = BOUND * padded_BLD[real].abs().max()
    assert (packed_TD - padded_BLD[real]).abs().max() <= bound
    expected = gradients(plain, padded_BLD, mask)
    ours_BLD = torch.zeros_like(padded_BLD).index_put((real.nonzero(as_tuple=True)), packed_TD)
    assert distance(gradients(both, ours_BLD, mask), expected) <= BOUND
    causal_BLD = hidden_states.hidden(both, ids, mask, causal=True)
    expected_BLD = hidden_states.hidden(plain, ids, mask, causal=True)
    assert (causal_BLD - expected_BLD)[real].abs().max() <= bound
