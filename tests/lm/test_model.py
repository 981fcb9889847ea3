"""The two views: one storage, no interference, padding and packing change nothing."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gritlm.errors import ModelError
from gritlm.lm.attention import views
from gritlm.lm.generator import complete
from gritlm.lm.sampling import SamplingParams
from gritlm.lm.self_check import require_views
from gritlm.lm.unified import UnifiedLM
from tests import tiny

BOUND = 1e-5


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def family(request: pytest.FixtureRequest) -> UnifiedLM:
    return UnifiedLM(tiny.model(request.param))


@pytest.fixture(scope="module")
def lm() -> UnifiedLM:
    return UnifiedLM(tiny.model("llama"))


def rows(*lengths: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 400, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


def test_both_views_hold_the_very_same_tensors(family):
    causal = dict(family.decoder.named_parameters())
    reading = dict(family.bidirectional.named_parameters())
    assert causal.keys() == reading.keys()
    assert all(reading[name] is causal[name] for name in causal)


@torch.inference_mode()
def test_a_call_changes_neither_config(family):
    before = copy.deepcopy((family.causal.config.to_dict(), family.bidirectional.config.to_dict()))
    ids, mask = rows(9, 5)
    family.hidden(ids, mask, causal=False)
    family.hidden(ids, mask, causal=True)
    family.logits(ids, mask)
    after = (family.causal.config.to_dict(), family.bidirectional.config.to_dict())
    assert after == before
    assert family.bidirectional.config is not family.causal.config


def test_every_family_passes_the_check_made_when_loading(family):
    require_views(family)


@torch.inference_mode()
def test_padding_does_not_change_a_hidden_state(family):
    ids, mask = rows(30, 7, 19)
    batch = family.hidden(ids, mask, causal=False)
    for row, size in enumerate(mask.sum(dim=1)):
        alone = family.hidden(ids[row : row + 1, :size], causal=False)
        assert (batch[row, :size] - alone[0]).abs().max() < BOUND


@torch.inference_mode()
def test_causal_texts_and_their_blocks_are_those_of_two_passes(family):
    ids, mask = rows(30, 7, 19)
    ids_T = ids[mask.bool()]
    lengths = mask.sum(dim=1).tolist()
    hidden_TD, blocks = family.causal_texts(ids_T, lengths, get_blocks=True)
    states = family.hidden(ids, mask, causal=True)[mask.bool()]
    assert (hidden_TD - states).abs().max() < BOUND
    for ids_L, block in zip(ids_T.split(lengths), blocks, strict=True):
        alone = family.causal_block(ids_L)
        assert (block.data - alone.data).abs().max() < BOUND
        assert block.token_ids.tolist() == ids_L.tolist()


@torch.inference_mode()
def test_padding_may_stand_on_either_side(lm):
    ids, mask = rows(12, 7)
    right = lm.hidden(ids, mask, causal=False)
    turned, on_the_left = ids.clone(), mask.flip(1)
    turned[1] = ids[1].roll(5)
    left = lm.hidden(turned, on_the_left, causal=False)
    assert (left[1, 5:] - right[1, :7]).abs().max() < BOUND


@torch.inference_mode()
def test_the_packed_pass_equals_transformers_own_padded_one(family):
    """transformers is asked the slow way: eager, with a full 4D mask, one text at a time."""
    ids, mask = rows(23, 12)
    ours = family.hidden(ids, mask, causal=False)
    plain = copy.deepcopy(family.decoder)
    plain.set_attn_implementation("eager")
    for row, size in enumerate(mask.sum(dim=1).tolist()):
        everything = torch.zeros(1, 1, size, size)
        theirs = plain(ids[row : row + 1, :size], attention_mask=everything).last_hidden_state
        assert (ours[row, :size] - theirs[0]).abs().max() < BOUND


@torch.inference_mode()
def test_the_last_token_reaches_the_first_state_only_bidirectionally(family):
    ids, _ = rows(14)
    other = ids.clone()
    other[0, -1] += 1
    reading, writing = (
        (family.hidden(ids, causal=c)[0, 0] - family.hidden(other, causal=c)[0, 0]).abs().max()
        for c in (False, True)
    )
    assert reading > 1e-4
    assert writing == 0


def test_gradients_flow_through_the_reading_view():
    lm = UnifiedLM(tiny.model("llama"))
    ids, mask = rows(9, 4)
    lm.hidden(ids, mask, causal=False)[mask.bool()].sum().backward()
    weight = lm.decoder.layers[0].self_attn.q_proj.weight
    assert weight.grad is not None
    assert weight.grad.abs().max() > 0


def test_four_threads_of_both_kinds_get_what_each_gets_alone(lm):
    ids, mask = rows(20, 11, seed=7)
    greedy = SamplingParams().sampler()

    def read() -> torch.Tensor:
        with torch.inference_mode():
            return lm.hidden(ids, mask, causal=False)

    def write() -> list[int]:
        return list(complete(lm, ids[0].tolist(), sampler=greedy, max_new_tokens=12))

    vectors, text = read(), write()
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(read if i % 2 else write) for i in range(40)]
    for i, job in enumerate(jobs):
        if i % 2:
            assert torch.equal(job.result(), vectors)
        else:
            assert job.result() == text


def test_a_model_that_ignores_the_bidirectional_view_is_refused():
    broken = UnifiedLM(tiny.model("llama"))
    broken.bidirectional = broken.decoder
    broken.packs = False
    with pytest.raises(ModelError, match="does not see its last one"):
        require_views(broken)


def test_a_model_without_exchangeable_attention_is_read_padded(monkeypatch):
    plain = UnifiedLM(tiny.model("llama"))
    monkeypatch.setattr(views, "can_pack", lambda _: False)
    padded = UnifiedLM(tiny.model("llama"))
    ids, mask = rows(15, 6)
    with torch.inference_mode():
        one, other = (m.hidden(ids, mask, causal=False) for m in (plain, padded))
        packed = padded.hidden_packed(ids[mask.bool()], [15, 6])
    assert (one - other)[mask.bool()].abs().max() < BOUND
    assert (packed - other[mask.bool()]).abs().max() < BOUND
    with pytest.raises(ModelError, match="no KV blocks"):
        padded.hidden_and_blocks(ids[0], [15])


def test_hooks_of_accelerate_follow_into_the_reading_view(tiny_model, tmp_path):
    """A model spread over disk and memory embeds like one that is not."""
    from transformers import AutoModelForCausalLM

    device_map = {
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.layers.2": "cpu",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    spread = AutoModelForCausalLM.from_pretrained(
        tiny_model(), device_map=device_map, offload_folder=tmp_path / "off", dtype=torch.float32
    )
    ids, mask = rows(9, 5)
    with torch.inference_mode():
        one = UnifiedLM(spread).hidden(ids, mask, causal=False)
        other = UnifiedLM(tiny.model("llama")).hidden(ids, mask, causal=False)
    assert (one - other)[mask.bool()].abs().max() < BOUND


@torch.inference_mode()
def test_few_tokens_behind_many_give_the_logits_of_one_pass(family):
    """The view for few tokens has its own attention; Mistral and the Gemmas have short windows."""
    ids, _ = rows(40)
    whole = family.causal(ids).logits
    for held in (0, 1, 29):
        cache = family.new_cache(40)
        if held:
            family.logits(ids[:, :held], cache=cache)
        rest = family.logits(ids[:, held:], cache=cache)
        assert (rest - whole[:, held:]).abs().max() < BOUND


@torch.inference_mode()
def test_the_view_for_few_tokens_takes_padding_and_both_kinds_of_masks(lm):
    ids, mask = rows(12, 7)
    whole = lm.causal(ids, attention_mask=mask).logits
    few = lm.causal_for(12)
    assert few is not lm.causal
    seen = torch.ones(12, 12).tril().bool() & mask[:, None, None].bool()
    for each in (mask, seen):
        difference = (few(ids, attention_mask=each).logits - whole).abs()
        assert difference[mask.bool()].max() < BOUND
