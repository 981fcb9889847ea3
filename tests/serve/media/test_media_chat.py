"""Chats with images and sound through a real server, against the same chats of the library."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from gritlm import GritLM, SamplingParams
from gritlm.lm.generator import complete
from gritlm.serve.engine.limits import Limits
from tests.lm.media.checkpoints import FAMILIES, SOUNDS
from tests.serve.conftest import Served
from tests.serve.media.conftest import asked, image_part, png, sound_part, wav


def written(served: Served, messages: Any, **more: Any) -> Any:
    options = {"model": "gritlm", "temperature": 0, "max_tokens": 12} | more
    return served.openai.chat.completions.create(messages=messages, **options)


def text(served: Served, messages: Any, **more: Any) -> str:
    return written(served, messages, **more).choices[0].message.content


def part_for(name: str, seed: int = 0) -> dict[str, Any]:
    return sound_part(wav(seed)) if name in SOUNDS else image_part(png(seed))


def told(oracle: GritLM, messages: Any, tokens: int = 12) -> str:
    return str(oracle.chat(messages, max_new_tokens=tokens))


def logprobs(oracle: GritLM, messages: Any, tokens: int = 12) -> list[float]:
    """Return the log-probabilities of a greedy answer, all from one pass of the model."""
    prompt = oracle.chat_prompt(messages)
    greedy = SamplingParams(temperature=0).sampler()
    drawn = list(complete(oracle.lm, prompt, sampler=greedy, max_new_tokens=tokens))
    ids = torch.tensor([[*prompt.ids, *drawn]])
    with torch.inference_mode():
        logprob_TV = oracle.lm.logits(ids, media=prompt.media)[0].log_softmax(dim=-1)
    after = len(prompt.ids) - 1
    return [float(logprob_TV[after + step, token]) for step, token in enumerate(drawn)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_chat_is_what_the_library_writes(start, name):
    served, oracle = start(name)
    known = []
    for seed in (0, 1):
        messages = asked(part_for(name, seed))
        found = written(served, messages, logprobs=True)
        assert found.choices[0].message.content == told(oracle, messages)
        assert found.usage.prompt_tokens == len(oracle.chat_prompt(messages).ids)
        known.append([each.logprob for each in found.choices[0].logprobs.content])
        np.testing.assert_allclose(known[-1], logprobs(oracle, messages), rtol=0, atol=1e-4)
    assert not np.allclose(*known, rtol=0, atol=1e-3)  # the images matter


@pytest.mark.parametrize("name", ["smolvlm", "qwen2_vl", "gemma3"])
def test_chats_next_to_each_other_are_what_each_is_alone(start, name):
    served, oracle = start(name, None, Limits(max_num_seqs=4, max_num_batched_tokens=24))
    conversations = [asked(part_for(name, seed)) for seed in range(3)]
    conversations += [asked(text="What is a volcano?"), asked(*map(image_part, (png(3), png(4))))]
    expected = [told(oracle, each, 24) for each in conversations]
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda each: text(served, each, max_tokens=24), conversations))
    assert found == expected


@pytest.mark.parametrize("name", ["smolvlm", "qwen2_5_vl"])
def test_a_conversation_that_goes_on_reads_no_image_again(start, name):
    served, oracle = start(name)
    if oracle.lm.compiled or served.service.scheduler._kv_slots.whole:
        pytest.skip("slots of this model keep nothing")
    first = asked(image_part())
    answer = text(served, first)
    more = [*first, {"role": "assistant", "content": answer}, *asked(text="Why?")]
    found = written(served, more)
    assert found.choices[0].message.content == told(oracle, more)
    image = oracle.chat_prompt(first).media[0]
    assert found.usage.prompt_tokens_details.cached_tokens > len(image.ids)
    another = [*asked(image_part(png(9))), *more[1:]]
    found = written(served, another)
    assert found.choices[0].message.content == told(oracle, another)
    assert found.usage.prompt_tokens_details.cached_tokens < len(image.ids)


def test_a_stream_spells_the_same_text(start):
    served, oracle = start("smolvlm")
    messages = asked(image_part())
    events = list(written(served, messages, stream=True))
    spelled = "".join(event.choices[0].delta.content or "" for event in events)
    assert spelled == told(oracle, messages)
