"""Sampling parameters: tokens equal those of transformers, formulas, bounds, masks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gritlm import GritLM, SamplingParams, gritlm_instruction
from gritlm.errors import InputError, UnknownArgumentError
from gritlm.lm.generator import complete
from gritlm.lm.logits import LogitBias, MinTokens, Penalties
from gritlm.lm.sampling import _nucleus

PROMPT_IDS = [5, 9, 7, 9, 30, 31, 32, 200]
TOKENS = 24


def drawn(grit: GritLM, **settings: Any) -> list[int]:
    """The tokens after PROMPT_IDS."""
    params = SamplingParams(TOKENS, **settings)
    end_ids = params.all_end_ids(())
    sampler = params.sampler(prompt_ids=PROMPT_IDS, end_ids=end_ids)
    return list(
        complete(grit.lm, PROMPT_IDS, sampler=sampler, max_new_tokens=TOKENS, end_ids=end_ids)
    )


def by_transformers(grit: GritLM, **options: Any) -> list[int]:
    """The tokens after PROMPT_IDS by the model's own ``generate``, without an end token."""
    found = grit.model.generate(
        torch.tensor([PROMPT_IDS]),
        attention_mask=torch.ones(1, len(PROMPT_IDS), dtype=torch.long),
        max_new_tokens=TOKENS,
        eos_token_id=None,
        pad_token_id=0,
        **options,
    )
    return found[0, len(PROMPT_IDS) :].tolist()


@pytest.mark.parametrize("penalty", [0.8, 1.0, 1.3, 3.0])
def test_a_repetition_penalty_gives_the_tokens_of_transformers(grit: GritLM, penalty: float):
    ours = drawn(grit, repetition_penalty=penalty)
    assert ours == by_transformers(grit, do_sample=False, repetition_penalty=penalty)


def test_a_repetition_penalty_changes_the_text(grit: GritLM):
    """Otherwise the test above would hold for a penalty that does nothing."""
    assert len(set(drawn(grit, repetition_penalty=3.0))) > len(set(drawn(grit)))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"top_k": 7},
        {"min_p": 0.3},
        {"top_p": 0.8},
        {"top_k": 40, "min_p": 0.5},
        {"top_k": 40, "top_p": 0.7, "repetition_penalty": 1.5},
    ],
)
@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_drawn_tokens_are_those_of_transformers(
    grit: GritLM, settings: dict[str, Any], temperature: float
):
    """The same seed draws the same tokens from the same distribution."""
    for seed in range(3):
        torch.manual_seed(seed)
        defaults = {"top_k": 0, "top_p": 1.0}
        theirs = by_transformers(
            grit, do_sample=True, temperature=temperature, **(defaults | settings)
        )
        assert drawn(grit, temperature=temperature, seed=seed, **settings) == theirs


def test_frequency_and_presence_penalties_follow_the_formula_of_openai():
    logits_V = torch.linspace(-2, 2, 6)
    penalties = Penalties(repetition=1.0, frequency=0.5, presence=0.25, prompt_ids=[4, 5])
    changed_V = logits_V.clone()
    penalties.apply(changed_V)
    assert torch.equal(changed_V, logits_V), "the prompt does not count"
    for token in (1, 3, 3, 3):
        penalties.accept(token)
    penalties.apply(changed_V)
    counts = {1: 1, 3: 3}
    for token, logit in enumerate(logits_V.tolist()):
        count = counts.get(token, 0)
        wanted = logit - 0.5 * count - 0.25 * (count > 0)
        assert changed_V[token] == pytest.approx(wanted, abs=1e-6)


def test_the_repetition_penalty_comes_before_the_others_as_in_vllm():
    logits_V = torch.tensor([4.0, -4.0, 1.0])
    penalties = Penalties(repetition=2.0, frequency=1.0, presence=0.5, prompt_ids=[1])
    penalties.apply(logits_V.clone())
    penalties.accept(0)
    penalties.apply(logits_V)
    assert logits_V.tolist() == [4 / 2 - 1 - 0.5, -4 * 2, 1.0]


def test_negative_penalties_repeat(grit: GritLM):
    assert len(set(drawn(grit, frequency_penalty=-2.0))) <= len(set(drawn(grit)))
    assert len(set(drawn(grit, frequency_penalty=2.0))) > len(set(drawn(grit)))


def test_a_bias_forbids_and_forces_tokens(grit: GritLM):
    plain = drawn(grit)
    without = drawn(grit, logit_bias={plain[0]: -100})
    assert plain[0] not in without
    assert drawn(grit, logit_bias={77: 100}) == [77] * TOKENS
    logits_V = torch.zeros(4)
    LogitBias({2: 1.5, 0: -3}).apply(logits_V)
    assert logits_V.tolist() == [-3, 0, 1.5, 0]


def test_stop_tokens_end_the_text_after_the_least_number_of_tokens(grit: GritLM):
    plain = drawn(grit)
    last = plain[5]
    first = plain.index(last)
    assert drawn(grit, stop_token_ids=(last,)) == plain[:first]
    longer = drawn(grit, stop_token_ids=(last,), min_new_tokens=10)
    assert last not in longer[:10]
    assert len(longer) >= 10


def test_the_last_possible_token_may_end_a_text_that_is_too_short():
    logits_V = torch.full((4,), -math.inf)
    logits_V[2] = 1.0
    MinTokens(3, [2]).apply(logits_V)
    assert logits_V[2] == 1.0
    logits_V[0] = -5.0
    MinTokens(3, [2]).apply(logits_V)
    assert logits_V.tolist() == [-5.0, -math.inf, -math.inf, -math.inf]


def test_end_tokens_are_ignored_on_request(grit: GritLM):
    end = 77
    forced = {"logit_bias": {end: 100.0}}
    params = SamplingParams(**forced)
    assert params.all_end_ids({end}) == {end}
    ignoring = SamplingParams(**forced, ignore_eos=True, stop_token_ids=(3,))
    assert ignoring.all_end_ids({end}) == {3}
    model_end = min(grit.end_ids)
    assert grit.chat("Hello", max_new_tokens=5, logit_bias={model_end: 100}) == ""
    longer = grit.chat("Hello", max_new_tokens=5, min_new_tokens=5, logit_bias={model_end: 100})
    assert longer


def test_a_stop_string_counts_after_the_least_number_of_tokens(grit: GritLM):
    text = grit.chat("Hello", max_new_tokens=20)
    stop = text[2:4]
    assert grit.chat("Hello", max_new_tokens=20, stop=stop) == text[: text.index(stop)]
    longer = grit.chat("Hello", max_new_tokens=20, stop=stop, min_new_tokens=20)
    assert longer == text


class EvenTokens:
    """A mask that allows even token ids, and counts the tokens."""

    complete = False

    def __init__(self) -> None:
        self.accepted: list[int] = []

    def apply(self, logits_V: Tensor) -> None:
        assert logits_V.dtype == torch.float32
        logits_V[1::2] = -math.inf

    def accept(self, token: int) -> None:
        self.accepted.append(token)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_mask_sees_each_token_of_its_own_sequence(grit: GritLM, temperature: float):
    masks: list[EvenTokens] = []

    def new() -> EvenTokens:
        masks.append(EvenTokens())
        return masks[-1]

    settings = {"temperature": temperature, "seed": 3, "mask": new, "logit_bias": {5: 100.0}}
    runs = [drawn(grit, **settings) for _ in range(2)]
    assert runs[0] == runs[1]
    assert all(token % 2 == 0 for token in runs[0])
    assert [mask.accepted for mask in masks] == runs


def test_a_mask_that_excludes_everything_is_an_error(grit: GritLM):
    class Nothing(EvenTokens):
        def apply(self, logits_V: Tensor) -> None:
            logits_V.fill_(-math.inf)

    with pytest.raises(InputError, match="no token may come next"):
        drawn(grit, mask=Nothing)


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.999])
def test_a_nucleus_of_many_tokens_is_that_of_transformers(top_p: float):
    """In a flat distribution it has more tokens than are looked at first."""
    from transformers import TopPLogitsWarper

    logits_V = torch.randn(5000, generator=torch.Generator().manual_seed(0)) / 4
    kept_V = _nucleus(logits_V, top_p)
    wanted_V = TopPLogitsWarper(top_p)(None, logits_V[None])[0]
    assert (kept_V > -math.inf).sum() == pytest.approx((wanted_V > -math.inf).sum(), abs=1)
    assert kept_V.max() == logits_V.max()


def test_a_sequence_without_these_settings_has_no_processors():
    """Nothing is copied or changed for it; other sequences of its batch may have some."""
    logits_V = torch.randn(9)
    addresses = []
    sampler = SamplingParams().sampler(prompt_ids=[1, 2], end_ids=[3])

    class Watched(torch.Tensor):
        def argmax(self, *args: Any, **options: Any) -> Tensor:
            addresses.append(self.data_ptr())
            return super().argmax(*args, **options)

    sampler(logits_V.as_subclass(Watched))
    assert addresses == [logits_V.data_ptr()]


def test_the_logits_of_the_model_are_not_changed():
    logits_V = torch.randn(50)
    before_V = logits_V.clone()
    sampler = SamplingParams(repetition_penalty=2.0, logit_bias={3: 50.0}).sampler(prompt_ids=[1])
    sampler(logits_V)
    assert torch.equal(logits_V, before_V)


def test_a_chat_takes_sampling_parameters_and_overrides(grit: GritLM):
    params = SamplingParams(12, temperature=1.5, seed=4, repetition_penalty=1.2)
    text = grit.chat("Hello", sampling=params)
    assert text == grit.chat(
        "Hello", max_new_tokens=12, temperature=1.5, seed=4, repetition_penalty=1.2
    )
    assert grit.chat("Hello", sampling=params, seed=5) != text
    with pytest.raises(UnknownArgumentError, match="did you mean 'temperature'"):
        grit.chat("Hello", temprature=1)
    with pytest.raises(InputError, match="the token id 400; expected 0 to 399"):
        grit.chat("Hello", logit_bias={400: 1.0})
    with pytest.raises(InputError, match="reports no log-probabilities"):
        grit.chat("Hello", sampling=SamplingParams(logprobs=1))


def test_tokens_of_a_kv_block_count_as_prompt(grit: GritLM):
    _, (block,) = grit.encode(
        ["Bob has a blue car."], instruction=gritlm_instruction(), get_cache=True
    )
    penalised = grit.chat("Hello", kv=block, max_new_tokens=8, repetition_penalty=50.0)
    ids = grit.tokenizer(penalised, add_special_tokens=False)["input_ids"]
    assert not set(ids) & set(block.token_ids.tolist())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_p": 1.5}, "min_p=1.5; expected a number from 0 to 1"),
        ({"min_p": math.nan}, "min_p=nan"),
        ({"frequency_penalty": 2.5}, "frequency_penalty=2.5; expected a number from -2 to 2"),
        ({"presence_penalty": "a"}, "presence_penalty='a'"),
        ({"repetition_penalty": 0}, "repetition_penalty=0; expected a number from 0.01 to 100"),
        ({"repetition_penalty": math.inf}, "repetition_penalty=inf"),
        ({"logit_bias": {3: 101}}, r"logit_bias\[3\]=101; expected a number from -100 to 100"),
        ({"logit_bias": {-1: 1}}, "logit_bias has the token id -1"),
        ({"logit_bias": {400: 1}}, "logit_bias has the token id 400; expected 0 to 399"),
        ({"stop_token_ids": (400,)}, "stop_token_ids has the token id 400; expected 0 to 399"),
        ({"min_new_tokens": -1}, "min_new_tokens=-1"),
        ({"min_new_tokens": 200}, "min_new_tokens=200 and max_new_tokens=128"),
        ({"stop": (1,)}, "stop: text 0 of 1 is 1; expected strings"),
    ],
)
def test_values_out_of_range_are_named(settings: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        SamplingParams(**settings).check(400)
