"""Log-probabilities go out with the text that they belong to."""

from __future__ import annotations

import pytest
import torch

from gritlm import GritLM
from gritlm.lm.sampling import SamplingParams
from gritlm.serve.engine.requests import OutputDelta
from gritlm.serve.engine.sequence import GeneratedSequence


def deltas(model: GritLM, text: str, stop: tuple[str, ...] = ()) -> list[OutputDelta]:
    """What an answer of these tokens is told as, until it ends."""
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    writing = SamplingParams(len(ids), stop=stop, logprobs=0)
    answer = GeneratedSequence(model, writing, (), len(ids))
    found = []
    for token in ids:
        logits_V = torch.zeros(model.model.config.vocab_size)
        logits_V[token] = 9.0
        found.append(answer.draw(logits_V))
        if answer.ended:
            break
    return found


def told(model: GritLM, found: list[OutputDelta]) -> str:
    ids = [each.token for delta in found for each in delta.logprobs]
    return str(model.tokenizer.decode(ids))


def test_tokens_of_a_stop_string_are_not_told(oracle: GritLM):
    found = deltas(oracle, "Cats sleep most of the day.", stop=(" most",))
    assert "".join(delta.text for delta in found) == "Cats sleep"
    assert told(oracle, found).strip() == "Cats sleep"
    assert found[-1].finish_reason == "stop"


def test_tokens_that_are_held_back_are_told_with_their_text(oracle: GritLM):
    found = deltas(oracle, "Cats sleep most of the day.", stop=("sleep well",))
    written = ""
    for index, delta in enumerate(found):
        written += delta.text
        assert told(oracle, found[: index + 1]).strip() in written
    assert told(oracle, found).strip() == written == "Cats sleep most of the day."


@pytest.mark.parametrize("text", ["Cats sleep", "你好 – a"])
def test_without_a_stop_string_every_token_is_told_once(oracle: GritLM, text: str):
    ids = oracle.tokenizer(text, add_special_tokens=False)["input_ids"]
    found = deltas(oracle, text)
    assert [each.token for delta in found for each in delta.logprobs] == ids
