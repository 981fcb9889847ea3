"""What was read once is not read again, and changes no answer."""

from __future__ import annotations

import pytest

from gritlm import GritLM
from gritlm.lm.sampling import SamplingParams
from gritlm.serve.engine.requests import GenerateRequest
from tests.serve.asking import Asked, held, scheduled, to_write

SYSTEM = {"role": "system", "content": "A model that reads, searches and writes. Be brief."}


@pytest.fixture(scope="module", params=["llama", "mistral"])
def model(request, tiny_model) -> GritLM:
    folder = tiny_model(request.param, max_position_embeddings=512)
    return GritLM(folder, dtype="float32", device="cpu")


def asks(text: str) -> list[dict[str, str]]:
    return [SYSTEM, {"role": "user", "content": text}]


def test_a_conversation_that_goes_on_is_read_from_where_it_stopped(model):
    ids = model.chat_ids(asks("What is water?"))
    with scheduled(model) as scheduler:
        first = Asked(scheduler, GenerateRequest(tuple(ids), SamplingParams(8, logprobs=0))).ended()
        written = [one.token for delta in first.deltas for one in delta.logprobs]
        more = [*ids, *written, *model.chat_ids("And what is a fox?", start=False)]
        second = Asked(scheduler, GenerateRequest(tuple(more), SamplingParams(12))).ended()
    with scheduled(model) as scheduler:
        fresh = Asked(scheduler, GenerateRequest(tuple(more), SamplingParams(12))).ended()
    assert fresh.started.cached_tokens == 0
    # The last token that was written has been told and never read.
    assert second.started.cached_tokens == len(ids) + len(written) - 1
    assert second.started.prompt_tokens == len(more)
    assert second.text == fresh.text


def test_the_system_text_of_a_running_chat_is_not_read_again(model):
    expected = model.chat(asks("Tell me about dogs."), max_new_tokens=12)
    with scheduled(model) as scheduler:
        long = Asked(scheduler, to_write(model, asks("Tell me about cats."), 100)).begun()
        other = Asked(scheduler, to_write(model, asks("Tell me about dogs."), 12))
        assert other.text == expected
        assert other.started.cached_tokens > len(model.chat_ids([SYSTEM])) // 2
        assert long.text == model.chat(asks("Tell me about cats."), max_new_tokens=100)


def test_the_same_prompt_again_reads_one_token(model):
    work = to_write(model, asks("What is water?"), 10)
    with scheduled(model) as scheduler:
        first, again = (Asked(scheduler, work).ended() for _ in range(2))
    assert again.started.cached_tokens == len(work.ids) - 1
    assert again.text == first.text


def test_a_prompt_that_fails_midway_leaves_nothing_to_build_on(model, monkeypatch):
    from gritlm.serve.engine.kv_slots import BatchedSlots

    work, read = to_write(model, asks("What is water?"), 10), BatchedSlots.prefill
    expected = model.chat(asks("What is water?"), max_new_tokens=10)

    def breaks(self, slot, ids, **options):
        read(self, slot, ids, **options)
        monkeypatch.undo()
        raise RuntimeError("out of memory")

    with scheduled(model, max_num_seqs=1, max_num_batched_tokens=16) as scheduler:
        monkeypatch.setattr(BatchedSlots, "prefill", breaks)
        assert "out of memory" in str(Asked(scheduler, work).error)
        again = Asked(scheduler, work).ended()
        assert again.started.cached_tokens == 0
        assert again.text == expected


def test_many_chats_with_one_system_text_write_what_each_writes_alone(model):
    questions = [
        f"Tell me about {word}." for word in ("cats", "dogs", "Ann", "Bob", "water", "fox")
    ]
    expected = [model.chat(asks(question), max_new_tokens=10) for question in questions]
    with scheduled(model) as scheduler:
        with held(scheduler):
            asked = [Asked(scheduler, to_write(model, asks(q), 10)) for q in questions]
        assert [one.text for one in asked] == expected
        assert sum(one.started.cached_tokens > 0 for one in asked) == len(questions) - 1
