"""Drafts from the prompt: what is found, and that the text is the same as without drafts."""

from __future__ import annotations

import random

import pytest
import torch

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.lm.generator import complete
from gritlm.lm.prompt_lookup import PromptLookup
from gritlm.lm.sampling import SamplingParams
from gritlm.lm.unified import UnifiedLM
from tests import tiny

NEW = 24


class Given(PromptLookup):
    """Drafts a given text, some tokens of which are wrong."""

    def __init__(self, text: list[int], wrong: float, seed: int = 0) -> None:
        super().__init__((), most=6)
        self._random = random.Random(seed)
        self._wrong = wrong
        self._text = text
        self._at = 0

    def add(self, token: int) -> None:
        self._at += 1

    def draft(self, room: int) -> list[int]:
        size = self._random.randint(0, min(room, 6))
        following = self._text[self._at : self._at + size]
        return [5 if self._random.random() < self._wrong else token for token in following]


def generate(lm: UnifiedLM, ids: list[int], lookup: PromptLookup | None, **settings) -> list[int]:
    params = SamplingParams(**settings)
    tokens = complete(lm, ids, sampler=params.sampler(), max_new_tokens=NEW, lookup=lookup)
    return list(tokens)


def prompt(seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.randint(2, 40, (1,), generator=generator))
    return torch.randint(3, 400, (size,), generator=generator).tolist()


def test_the_tokens_behind_the_last_occurrence_are_drafted():
    lookup = PromptLookup([7, 8, 9, 1, 2, 7, 8, 9, 3, 4, 5, 6, 11, 7, 8, 9], most=8)
    assert lookup.draft(8) == [3, 4, 5, 6]
    assert lookup.draft(2) == [3, 4]
    assert lookup.draft(0) == []


def test_a_draft_that_no_pass_verifies_is_judged_by_the_tokens_that_are_drawn():
    known = [7, 8, 9, *range(20, 40), 7, 8, 9]
    lookup = PromptLookup(known, most=8)
    assert lookup.expected(4) == 2.0
    lookup.watch(lookup.draft(8))
    for token in range(20, 24):
        lookup.watch(lookup.draft(8))  # the first one is still compared
        lookup.add(token)
    assert (lookup.drafted, lookup.accepted) == (4, 4)
    assert lookup.expected(4) > 2.8
    assert lookup.draft(8) == list(range(24, 32))  # twice as long as before
    lookup.watch(lookup.draft(8))
    lookup.add(24)
    lookup.add(99)
    assert (lookup.drafted, lookup.accepted) == (12, 5)
    assert lookup.expected(4) < 2.0


def test_two_tokens_are_enough_and_one_is_not():
    assert PromptLookup([7, 8, 3, 4, 1, 7, 8], most=8).draft(8) == [3, 4, 1, 7]
    assert PromptLookup([8, 3, 4, 1, 8], most=8).draft(8) == []
    assert PromptLookup([], most=8).draft(8) == []


def test_bytes_of_two_tokens_are_no_occurrence():
    # As bytes, 0x01000000 and 0x00000001 contain each other's at other offsets.
    lookup = PromptLookup([1 << 24, 1 << 24, 1 << 24, 9, 1, 1, 1], most=8)
    assert lookup.draft(8) == [1]


def test_generated_tokens_are_found_too():
    lookup = PromptLookup([1, 2, 3], most=8)
    for token in (4, 5, 1, 2):
        lookup.add(token)
    assert lookup.draft(8) == [3, 4, 5, 1]


def test_a_draft_grows_with_success_and_pauses_after_failures():
    ids = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1, 2]
    lookup = PromptLookup(ids, most=8)
    lookup.judge(4, 4)
    assert len(lookup.draft(20)) == 8
    lookup.judge(8, 2)
    assert len(lookup.draft(20)) == 3
    lookup.judge(3, 0)
    assert lookup.draft(20) == []
    lookup.add(1)
    lookup.add(2)
    assert lookup.draft(20)
    assert (lookup.drafted, lookup.accepted) == (15, 6)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_greedy_text_is_the_same_in_every_family(family):
    lm = UnifiedLM(tiny.model(family))
    ids = prompt(3)
    plain = generate(lm, ids, None)
    for wrong in (0.0, 0.3, 1.0):
        assert generate(lm, ids, Given(plain, wrong)) == plain
    assert generate(lm, ids, PromptLookup(ids, most=10)) == plain


def test_greedy_text_of_200_prompts_is_the_same():
    lm = UnifiedLM(tiny.model())
    drafted = accepted = 0
    for seed in range(200):
        ids = prompt(seed)
        lookup = PromptLookup(ids, most=10)
        assert generate(lm, ids, lookup) == generate(lm, ids, None)
        drafted += lookup.drafted
        accepted += lookup.accepted
    assert 0 < accepted < drafted  # right and wrong drafts were both seen


def test_sampled_text_is_the_same_with_the_same_seed():
    lm = UnifiedLM(tiny.model())
    for seed in range(20):
        ids = prompt(seed)
        settings = {"temperature": 0.7, "top_p": 0.9, "seed": seed}
        plain = generate(lm, ids, None, **settings)
        assert generate(lm, ids, Given(plain, 0.3, seed), **settings) == plain


def test_penalties_count_every_token_once():
    lm = UnifiedLM(tiny.model())
    ids = prompt(1)
    settings = {"frequency_penalty": 1.5, "repetition_penalty": 1.2}
    plain = generate(lm, ids, None, **settings)
    assert generate(lm, ids, Given(plain, 0.2), **settings) == plain


def test_an_end_token_inside_a_draft_ends_the_text():
    lm = UnifiedLM(tiny.model())
    ids = prompt(2)
    plain = generate(lm, ids, None)
    end = plain[7]
    sampler = SamplingParams().sampler()
    ended = complete(
        lm, ids, sampler=sampler, max_new_tokens=NEW, end_ids={end}, lookup=Given(plain, 0.0)
    )
    assert list(ended) == plain[: plain.index(end)]


def test_chats_draft_by_default(grit: GritLM):
    plain = grit.chat("cats and dogs and cats", max_new_tokens=40, prompt_lookup_num_tokens=0)
    assert grit.chat("cats and dogs and cats", max_new_tokens=40) == plain


@pytest.mark.parametrize("value", [-1, 2.5, True, "4"])
def test_a_number_that_is_none_is_refused(grit: GritLM, value):
    with pytest.raises(InputError, match="prompt_lookup_num_tokens="):
        grit.chat("cats", prompt_lookup_num_tokens=value)
