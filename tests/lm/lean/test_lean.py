"""The lean forward pass equals that of the model, for every way of calling it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from gritlm.lm.generator import complete, prefill
from gritlm.lm.hf_generate import hf_generate
from gritlm.lm.kv.cache import recorded, recording
from gritlm.lm.kv.row_batch import RowBatch
from gritlm.lm.kv.slot_memory import SlotMemory
from gritlm.lm.lean import tiles
from gritlm.lm.lean.linears import packing_pays
from gritlm.lm.lean.view import lean_forward_of, lean_view
from gritlm.lm.sampling import SamplingParams
from gritlm.lm.unified import UnifiedLM
from tests import tiny

BOUND = 1e-5
KNOWN = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
# Windows in some layers, heads of another size than the hidden state gives, biases, no positions.
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    **{family: (family, {}) for family in KNOWN},
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "llama with scaled positions": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
    ),
    "mistral without window": ("mistral", {"sliding_window": None}),
    "qwen2 with windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "smollm3 without positions": ("smollm3", {"no_rope_layers": [1, 0, 1]}),
}


def made(variant: str) -> Any:
    """Return a model with random biases and norms, which are 0 and 1 when a model is made."""
    family, changes = VARIANTS[variant]
    model = tiny.model(family, **changes)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                noise = torch.randn(parameter.shape, generator=generator) * 0.2
                parameter.copy_(noise + (0 if name.endswith("bias") else 1))
    return model


@pytest.fixture(scope="module", params=list(VARIANTS))
def lm(request: pytest.FixtureRequest) -> UnifiedLM:
    return UnifiedLM(made(request.param))


@pytest.fixture(params=[tiles.TILE, 7])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a test with one tile, and with several of them."""
    monkeypatch.setattr(tiles, "TILE", request.param)
    return int(request.param)


def ids(rows: int, size: int, seed: int = 1) -> Tensor:
    return torch.randint(3, 400, (rows, size), generator=torch.Generator().manual_seed(seed))


def near(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether two tensors differ by rounding only."""
    return float((ours - theirs).abs().max()) <= BOUND * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_families_are_known_or_keep_their_own_pass(family):
    view = lean_view(tiny.model(family), packed=False)
    assert (view is not None) == (family in KNOWN)


@torch.inference_mode()
def test_a_prompt_in_any_pieces_gives_the_logits_of_one_pass(lm, tile):
    ids_BL = ids(2, 41)
    whole_BLV = lm.causal(ids_BL).logits
    view = lm.causal_for(41)
    assert lean_forward_of(view) is not None
    assert near(view(ids_BL).logits, whole_BLV)
    assert near(view(ids_BL, logits_to_keep=5).logits, whole_BLV[:, -5:])
    for cache in (lm.new_cache(9), DynamicCache()):
        done = 0
        for size in (1, 19, 1, 12, 8):
            part_BL = ids_BL[:, done : done + size]
            logits = view(part_BL, past_key_values=cache, use_cache=True, logits_to_keep=2).logits
            done += size
            assert near(logits, whole_BLV[:, max(done - size, done - 2) : done])


@torch.inference_mode()
def test_padding_and_masks_are_those_of_the_model(lm, tile):
    ids_BL = ids(3, 30)
    view = lm.causal_for(30)
    for mask_BL in (torch.ones(3, 30), torch.arange(30) >= torch.tensor([[0], [4], [13]])):
        theirs = lm.causal(ids_BL, attention_mask=mask_BL.long()).logits
        ours = view(ids_BL, attention_mask=mask_BL.long()).logits
        real = mask_BL.bool()
        assert near(ours[real], theirs[real])
        assert torch.isfinite(ours).all()
    holes = torch.ones(30, 30).tril().bool()
    holes[5:, [2, 3, 9]] = False
    theirs = lm.causal(ids_BL, attention_mask=holes[None, None]).logits
    assert near(view(ids_BL, attention_mask=holes[None, None].expand(3, -1, -1, -1)).logits, theirs)


@torch.inference_mode()
def test_texts_are_embedded_as_by_the_bidirectional_view(lm, tile):
    ids_T = ids(1, 61)[0]
    lengths = [3, 17, 40, 1]
    theirs = lm._packed(lm.bidirectional, ids_T, lengths, None)
    assert near(lm.hidden_packed(ids_T, lengths), theirs)
    calls: list[int] = []
    lm.hidden_packed(ids_T, lengths, pause=lambda: calls.append(1))
    assert len(calls) == lm.config.num_hidden_layers
    hidden, blocks = lm.hidden_and_blocks(ids_T, lengths)
    assert near(hidden, theirs)
    cache = recording(lm.config.num_hidden_layers)
    alone = lm._packed(lm.bidirectional, ids_T[20:60], [40], cache)
    assert near(hidden[20:60], alone)
    assert near(blocks[2].data, recorded(cache))


def test_short_texts_side_by_side_have_the_states_of_each_alone(lm):
    lengths = [1, 5, 5, 32, 2, 31, 33, 64, 40, 65, 7, 7, 7]
    plan = tiles.text_tiles(lengths, torch.float32)
    assert [each.queries.stop - each.queries.start for each in plan] == [76, 137, 65, 21]
    read_T = ids(1, sum(lengths))[0]
    view = lean_view(lm.causal, packed=False)
    assert view is not None
    forward = lean_forward_of(view)
    assert forward is not None

    def states(text_T: Tensor, sizes: list[int]) -> Tensor:
        position_T = torch.cat([torch.arange(size) for size in sizes])
        return forward.texts(text_T[None], position_T[None], None, sizes).last_hidden_state[0]

    with torch.inference_mode():
        together = states(read_T, lengths).split(lengths)
        alone = [states(text_T, [len(text_T)]) for text_T in read_T.split(lengths)]
        assert all(near(one, other) for one, other in zip(together, alone, strict=True))
        last = lm.hidden(read_T[None, -7:], causal=False)[0]
        assert near(together[-1], last)


@torch.inference_mode()
def test_causal_texts_and_their_blocks_are_those_of_two_passes(lm, tile):
    ids_T = ids(1, 61)[0]
    lengths = [3, 17, 40, 1]
    hidden_TD, blocks = lm.causal_texts(ids_T, lengths, get_blocks=True)
    assert lean_forward_of(lm.causal_for(61)) is not None
    for ids_L, ours, block in zip(
        ids_T.split(lengths), hidden_TD.split(lengths), blocks, strict=True
    ):
        assert near(ours, lm.hidden(ids_L[None], causal=True)[0])
        alone = lm.causal_block(ids_L)
        assert near(block.data, alone.data)
        assert (block.causal, block.token_ids.tolist()) == (True, ids_L.tolist())
    without, none = lm.causal_texts(ids_T, lengths, get_blocks=False)
    assert torch.equal(without, hidden_TD)
    assert none == []


@torch.inference_mode()
def test_rows_of_unequal_length_are_plain_prompts(lm, tile):
    passages = [ids(1, size, seed=size)[0] for size in (21, 9, 34)]
    question = ids(1, 11)[0]
    blocks = [lm.causal_block(each) for each in passages]
    batch = RowBatch(lm, [*blocks, None], room=20)
    logits = batch.prefill(question.tolist(), keep=11)
    for row, passage in enumerate([*passages, question[:0]]):
        plain = lm.causal(torch.cat((passage, question))[None]).logits[0]
        assert near(logits[row], plain[-11:])
    cache = batch.row(2, room=3)
    plain = lm.causal(torch.cat((passages[2], question, ids(1, 3, seed=5)[0]))[None]).logits[0]
    assert near(prefill(lm, cache, ids(1, 3, seed=5)[0].tolist()), plain[-1])


@torch.inference_mode()
def test_steps_over_slots_are_plain_prompts(lm):
    texts = [ids(1, size, seed=size)[0] for size in (23, 5, 14, 15)]
    assert lean_forward_of(lm.stepping) is not None
    memory = SlotMemory(lm, 6, 32)
    slots = [0, 1, 3, 5]
    for slot, text in zip(slots, texts, strict=True):
        prefill(lm, memory.cache(slot, 0), text.tolist())
    logits = memory.step([7, 8, 9, 10], slots, [len(text) for text in texts])
    for row, (token, text) in enumerate(zip((7, 8, 9, 10), texts, strict=True)):
        plain = lm.causal(torch.cat((text, torch.tensor([token])))[None]).logits[0, -1]
        assert near(logits[row], plain)


def test_greedy_text_is_that_of_the_model(lm):
    prompt = ids(1, 30)
    greedy = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    theirs = lm.causal.generate(prompt, **greedy)
    new = theirs[0, 30:].tolist()
    answer = complete(lm, prompt[0].tolist(), sampler=SamplingParams().sampler(), max_new_tokens=24)
    assert list(answer) == new
    kv = lm.causal_block(prompt[0, :20])
    answer = complete(
        lm, prompt[0, 20:].tolist(), kv=kv, sampler=SamplingParams().sampler(), max_new_tokens=24
    )
    assert list(answer) == new
    inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
    assert torch.equal(hf_generate(lm, inputs, kv=None, **{**greedy, "pad_id": 0}), theirs)
    beams = {**greedy, "num_beams": 3}
    ours = hf_generate(lm, inputs, kv=None, **{**beams, "pad_id": 0})
    assert torch.equal(ours, lm.causal.generate(prompt, **beams))


def test_calls_that_it_does_not_take_go_to_the_model():
    lm = UnifiedLM(tiny.model())
    view = lm.decoding
    prompt = ids(1, 9)
    with torch.inference_mode():
        found = view(prompt, output_hidden_states=True, use_cache=True)
        assert len(found.hidden_states) == 4
        assert found.past_key_values.get_seq_length() == 9
        embedded = lm.causal.get_input_embeddings()(prompt)
        assert torch.equal(view(inputs_embeds=embedded).logits, lm.causal(prompt).logits)
        kept = view(prompt, logits_to_keep=torch.tensor([0, 3])).logits
        assert near(kept, lm.causal(prompt).logits[:, [0, 3]])
        added = torch.zeros(1, 1, 9, 9).masked_fill(torch.ones(9, 9).triu(1).bool(), -1e9)
        assert near(view(prompt, attention_mask=added).logits, lm.causal(prompt).logits)
    view(prompt).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in lm.causal.parameters())


def test_a_decoder_without_head_returns_its_states():
    lm = UnifiedLM(tiny.model().model)
    view = lm.causal_for(9)
    assert lean_forward_of(view) is not None
    with torch.inference_mode():
        theirs = lm.causal(ids(1, 9)).last_hidden_state
        assert near(view(ids(1, 9)).last_hidden_state, theirs)
        assert lm.causal_block(ids(1, 9)[0]).tokens == 9


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_packed_weights_of_bfloat16_are_as_near_to_float32_as_the_model(variant):
    exact = made(variant)
    rounded = made(variant).to(torch.bfloat16)
    if not packing_pays(rounded):
        pytest.skip("this machine packs no weights (no bfloat16 kernels of oneDNN)")
    lm = UnifiedLM(rounded)
    prompt = ids(4, 60)
    with torch.inference_mode():
        right = exact(prompt).logits
        ours = (lm.decoding(prompt).logits.float() - right).norm()
        theirs = (rounded(prompt).logits.float() - right).norm()
    assert ours < 1.3 * theirs < 0.2 * right.norm()
