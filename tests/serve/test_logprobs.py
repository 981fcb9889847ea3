"""Log-probabilities name each token, those that are parts of characters too."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from gritlm import GritLM
from gritlm.lm.sampling import SamplingParams
from gritlm.lm.tokens import SegmentTokenizer
from gritlm.serve.api.logprobs import TokenTexts
from gritlm.serve.engine.requests import TokenLogprob
from gritlm.serve.engine.sequence import GeneratedSequence
from tests.lm.test_token_bytes import ids_of, sentencepiece
from tests.serve.conftest import Served

EMOJI = "🔥🦄👩‍🚀 🔥🦄👩‍🚀 🔥🦄"


def test_each_position_of_a_completion_has_all_its_alternatives(live: Served):
    body = {"prompt": EMOJI, "max_tokens": 12, "temperature": 0, "logprobs": 5}
    found = live.http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    assert len(found["tokens"]) == 12
    assert any(name.startswith("bytes:\\x") for top in found["top_logprobs"] for name in top)
    for token, logprob, top in zip(
        found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert len(top) == 5
        assert top[token] == logprob == max(top.values())


def test_two_tokens_of_the_same_text_have_two_names():
    tokenizer = sentencepiece()
    letter, byte, other = tokenizer.convert_tokens_to_ids(["a", "<0x61>", "b"])
    answer = TokenTexts(SegmentTokenizer(tokenizer)).new_sequence()
    top = ((letter, -1.0), (byte, -2.0), (other, -3.0))
    found = answer.as_completion([TokenLogprob(letter, -1.0, top), TokenLogprob(byte, -2.0, top)])
    assert found["tokens"] == ["a", "a"]
    assert found["top_logprobs"] == [
        {"a": -1.0, f"token_id:{byte}": -2.0, "b": -3.0},
        {f"token_id:{letter}": -1.0, "a": -2.0, "b": -3.0},
    ]


def test_offsets_are_characters_of_the_text():
    tokenizer = sentencepiece()
    answer = TokenTexts(SegmentTokenizer(tokenizer)).new_sequence()
    ids = ids_of(tokenizer, "has 🔥a")
    found = answer.as_completion([TokenLogprob(token, 0.0) for token in ids])
    at = "has 🔥a".index("🔥")
    assert found["text_offset"][-6:] == [at - 1, at, at, at, at, at + 1]
    assert found["text_offset"][0] == 0


@pytest.mark.parametrize("streamed", [False, True])
def test_the_bytes_of_a_chat_are_its_text(live: Served, streamed: bool):
    body = {
        "messages": [{"role": "user", "content": EMOJI}],
        "max_tokens": 40,
        "temperature": 1.5,
        "seed": 3,
        "logprobs": True,
        "top_logprobs": 5,
        "stream": streamed,
    }
    answer = live.http.post("/v1/chat/completions", json=body)
    if streamed:
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
        choices = [json.loads(line)["choices"][0] for line in lines]
        text = "".join(choice["delta"].get("content", "") for choice in choices)
    else:
        choices = [answer.json()["choices"][0]]
        text = choices[0]["message"]["content"]
    tokens = [
        each for choice in choices if choice["logprobs"] for each in choice["logprobs"]["content"]
    ]
    assert len(tokens) >= 15
    whole = bytes(byte for each in tokens for byte in each["bytes"])
    assert whole.decode(errors="replace") == text
    for each in tokens:
        assert len({(top["token"], tuple(top["bytes"])) for top in each["top_logprobs"]}) == 5


def test_an_emoji_that_is_written_has_its_bytes(oracle: GritLM):
    ids = ids_of(oracle.tokenizer, "a 🔥!")
    writing = SamplingParams(len(ids), logprobs=2)
    answer, told = GeneratedSequence(oracle, writing, (), len(ids)), []
    spelling = TokenTexts(SegmentTokenizer(oracle.tokenizer)).new_sequence()
    items: list[dict[str, Any]] = []
    for token in ids:
        logits_V = torch.zeros(oracle.model.config.vocab_size)
        logits_V[token] = 9.0
        delta = answer.draw(logits_V)
        told.append(delta.text)
        items += spelling.as_chat(delta.logprobs)
    assert bytes(byte for item in items for byte in item["bytes"]).decode() == "".join(told)
    assert "".join(told) == "a 🔥!"
