from __future__ import annotations

import pytest
import torch

from gritlm.errors import InputError
from gritlm.evaluation.generation import writing
from gritlm.evaluation.generation.harness import GritLMHarness
from gritlm.lm.continuous import greedy_answers

from .conftest import asked

LONG = "Cats sleep most of the day. " * 60


def written(harness, contexts, **how):
    return harness.generate_until(asked("generate_until", [(one, how) for one in contexts]))


def test_a_batch_gives_the_texts_of_each_prompt_alone(ours):
    contexts = ["Cats", "Dogs like long walks in the", "Water boils at 100 degrees and"]
    how = {"until": ["."], "max_gen_toks": 10}
    assert written(ours, contexts, **how) == [written(ours, [one], **how)[0] for one in contexts]


def test_a_task_that_names_no_length_gets_256_tokens():
    assert writing.generation_settings({"until": ["x"]}, end="</s>").max_new_tokens == 256


def test_the_end_token_ends_an_answer_too():
    assert writing.generation_settings({"until": ["x"]}, end="</s>").until == ("x", "</s>")


def test_greedy_is_what_nothing_says_otherwise():
    how = writing.generation_settings({"temperature": 0.0}, end=None)
    assert dict(how.options) == {"do_sample": False}


def test_a_temperature_is_honoured_and_what_is_drawn_is_the_same_each_time(ours):
    hot = {"do_sample": True, "temperature": 5.0, "max_gen_toks": 12}
    state = torch.random.get_rng_state()
    first = written(ours, ["Cats sleep"], **hot)
    assert first == written(ours, ["Cats sleep"], **hot)
    assert first != written(ours, ["Cats sleep"], max_gen_toks=12)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_context_that_is_too_long_loses_its_beginning_with_a_warning_that_counts(
    ours, theirs, caplog
):
    how = {"until": ["."], "max_gen_toks": 8}
    found = written(ours, [LONG, "Dogs"], **how)
    assert "1 of 2 contexts are longer than the model takes (248 tokens" in caplog.text
    requests = asked("generate_until", [(LONG, how)])
    assert found[:1] == theirs.generate_until(requests, disable_tqdm=True)


def test_a_long_context_of_a_continuation_is_counted_too(ours, caplog):
    ours.loglikelihood(asked("loglikelihood", [(LONG, " yes"), (LONG, " no"), ("Dogs", " no")]))
    assert "2 of 3 contexts" in caplog.text


def test_an_answer_that_leaves_no_room_for_its_context_is_refused(ours):
    with pytest.raises(InputError, match="max_gen_toks=256, the model takes 256 tokens"):
        written(ours, ["Cats"], until=["."])


def test_a_continuation_without_tokens_is_refused(ours):
    with pytest.raises(InputError, match="the continuation '' of the context 'Cats' has 0 tokens"):
        ours.loglikelihood(asked("loglikelihood", [("Cats", "")]))


def test_writing_goes_on_when_memory_runs_out(ours, monkeypatch):
    contexts, how = ["Cats", "Dogs", "Water"], {"max_gen_toks": 5}
    expected = written(ours, contexts, **how)
    whole = writing._generate_continuously

    def small(model, prompts, how):
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(model, prompts, how)

    monkeypatch.setattr(writing, "_generate_continuously", small)
    assert written(GritLMHarness(ours.model), contexts, **how) == expected


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_sequences_in_slots_give_the_texts_of_transformers(ours, slots):
    shared = ours.model.tokenizer("Cats sleep most of the day.")["input_ids"]
    generator = torch.Generator().manual_seed(1)
    tails = [torch.randint(3, 60, (n,), generator=generator).tolist() for n in (1, 9, 4, 20, 2, 7)]
    prompts = [(*shared, *tail) for tail in tails]
    for until in ((), (" the",)):
        settings = writing.GenerationSettings(until, 17, {"do_sample": False})
        expected = writing._generate(ours.model, prompts, settings)
        found = greedy_answers(ours.model, prompts, until=until, max_new_tokens=17, slots=slots)
        assert writing._texts(ours.model, found, settings) == expected
    assert len(set(expected)) > 1


def test_sampling_and_other_options_take_the_way_of_transformers():
    plain = writing.generation_settings({}, end=None)
    assert plain.is_plain_greedy
    assert not writing.generation_settings({"num_beams": 2}, end=None).is_plain_greedy
    hot = writing.generation_settings({"do_sample": True, "temperature": 1.0}, end=None)
    assert not hot.is_plain_greedy
