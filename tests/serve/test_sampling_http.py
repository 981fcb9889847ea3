"""Sampling parameters of the API: the text of the library with the same parameters, in each route;
values out of range."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gritlm import GritLM, SamplingParams
from tests.serve.conftest import Served

CHAT, COMPLETE, ANSWER = "/v1/chat/completions", "/v1/completions", "/v1/rag/answer"
TALK = [{"role": "user", "content": "What colour is the ball?"}]
EXTRAS = [
    {"repetition_penalty": 1.5},
    {"frequency_penalty": 1.5},
    {"presence_penalty": -1.0},
    {"min_p": 0.2, "temperature": 1.3, "seed": 5},
    {"top_k": 3, "temperature": 1.3, "seed": 5},
    {"logit_bias": {"77": 3.5, "78": -100}},
    {"repetition_penalty": 1.2, "frequency_penalty": 0.3, "temperature": 0.9, "seed": 1},
]


def as_params(extra: dict[str, Any], tokens: int = 16) -> SamplingParams:
    bias = {int(token): number for token, number in extra.get("logit_bias", {}).items()}
    return SamplingParams(tokens, **(extra | {"logit_bias": bias}))


def by_client(live: Served, extra: dict[str, Any], **more: Any) -> Any:
    """A chat by the official client; fields that it does not know go into ``extra_body``."""
    return live.openai.chat.completions.create(
        model="tiny",
        messages=TALK,
        max_tokens=16,
        extra_body={"temperature": 0} | extra,
        **more,
    )


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_chat_is_what_the_library_writes(live: Served, oracle: GritLM, extra: dict[str, Any]):
    wanted = oracle.chat(TALK, sampling=as_params(extra))
    assert by_client(live, extra).choices[0].message.content == wanted
    events = by_client(live, extra, stream=True)
    assert "".join(event.choices[0].delta.content or "" for event in events) == wanted


def test_sequences_that_run_together_keep_their_own_penalties(live: Served, oracle: GritLM):
    """More of them than slots, so that some wait for others."""
    extras = [{}, *EXTRAS] * 2
    with ThreadPoolExecutor(len(extras)) as pool:
        found = list(pool.map(lambda extra: by_client(live, extra), extras))
    for extra, response in zip(extras, found, strict=True):
        assert response.choices[0].message.content == oracle.chat(TALK, sampling=as_params(extra))


def test_each_of_several_choices_counts_its_own_tokens(live: Served, oracle: GritLM):
    extra = {"temperature": 1.2, "seed": 9, "frequency_penalty": 1.0, "repetition_penalty": 1.2}
    found = by_client(live, extra, n=6)
    wanted = [
        oracle.chat(TALK, sampling=as_params(extra | {"seed": 9 + choice})) for choice in range(6)
    ]
    assert [choice.message.content for choice in found.choices] == wanted
    streamed = [""] * 6
    for event in by_client(live, extra, n=6, stream=True):
        for choice in event.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == wanted


@pytest.mark.parametrize("extra", EXTRAS[:3])
def test_completions_take_them_too(live: Served, oracle: GritLM, extra: dict[str, Any]):
    found = live.openai.completions.create(
        model="tiny", prompt=TALK[0]["content"], max_tokens=16, temperature=0, extra_body=extra
    )
    ids = oracle.tokenizer(TALK[0]["content"], return_tensors="pt")["input_ids"]
    options = {"do_sample": False, "max_new_tokens": 16}
    if "repetition_penalty" in extra:
        wanted = oracle.generate(ids, **options, **extra)[0, ids.shape[1] :]
        assert found.choices[0].text == oracle.tokenizer.decode(wanted, skip_special_tokens=True)
    else:
        plain = oracle.generate(ids, **options)[0, ids.shape[1] :]
        assert found.choices[0].text != oracle.tokenizer.decode(plain, skip_special_tokens=True)


def test_answers_from_documents_take_them_too(live: Served):
    body = {"question": "What colour is the ball?", "top_k": 1, "max_tokens": 12}
    plain = live.http.post(ANSWER, json=body).json()["answer"]
    bias = {"logit_bias": {"77": 100}, "min_tokens": 3, "ignore_eos": True}
    forced = live.http.post(ANSWER, json=body | bias).json()["answer"]
    assert forced != plain
    assert forced == live.service.model.tokenizer.decode([77] * 12)


def test_token_ids_and_end_tokens_end_a_text(live: Served, oracle: GritLM):
    end = min(oracle.end_ids)
    ended = by_client(live, {"logit_bias": {str(end): 100}})
    assert (ended.choices[0].finish_reason, ended.usage.completion_tokens) == ("stop", 0)
    ignored = by_client(live, {"logit_bias": {str(end): 100}, "ignore_eos": True})
    assert (ignored.choices[0].finish_reason, ignored.usage.completion_tokens) == ("length", 16)
    least = by_client(live, {"logit_bias": {str(end): 100}, "min_tokens": 5})
    assert (least.choices[0].finish_reason, least.usage.completion_tokens) == ("stop", 5)
    stopped = by_client(live, {"logit_bias": {"77": 100}, "stop_token_ids": [77]})
    assert (stopped.choices[0].finish_reason, stopped.choices[0].message.content) == ("stop", "")


def test_the_passages_of_an_answer_are_not_its_likeliest_tokens(live: Served):
    """Both are named ``top_k``; with one passage, a sampled answer is not greedy."""
    body = {"question": "What colour is the ball?", "top_k": 1, "max_tokens": 12}
    answers = [
        live.http.post(ANSWER, json=body | {"temperature": temperature, "seed": 3}).json()
        for temperature in (0.0, 2.0)
    ]
    assert answers[0]["answer"] != answers[1]["answer"]


def test_minus_one_is_all_tokens_as_in_vllm(live: Served):
    first, second = (
        by_client(live, {"temperature": 1.5, "seed": 3, "top_k": top_k}) for top_k in (-1, 0)
    )
    assert first.choices[0].message.content == second.choices[0].message.content


def test_log_probabilities_are_those_of_the_model(live: Served):
    """They do not change with the penalties, as in vLLM."""
    plain = by_client(live, {}, logprobs=True).choices[0].logprobs.content[0]
    biased = by_client(live, {"logit_bias": {"77": -50}}, logprobs=True, top_logprobs=3)
    assert biased.choices[0].logprobs.content[0].logprob == pytest.approx(plain.logprob, abs=1e-5)


@pytest.mark.parametrize("path", [CHAT, COMPLETE, ANSWER])
@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"frequency_penalty": 2.5}, "frequency_penalty", "2.5; input should be less than or"),
        ({"presence_penalty": -3}, "presence_penalty", "-3; input should be greater than or"),
        ({"presence_penalty": "x" * 99}, "presence_penalty", f'"{"x" * 39}…; input should be'),
        ({"repetition_penalty": 0}, "repetition_penalty", "equal to 0.01"),
        ({"min_p": 2}, "min_p", "2; input should be less than or equal to 1"),
        ({"temperature": True}, "temperature", "true; input should be a valid number"),
        ({"logit_bias": {"77": 101}}, "logit_bias.77", "101; input should be less than or"),
        ({"logit_bias": {"-7": 1}}, "logit_bias", "the key '-7' is no token id"),
        ({"logit_bias": {"400": 1}}, "logit_bias", "the token id 400; expected 0 to 399"),
        (
            {"logit_bias": {str(n): 1 for n in range(1025)}},
            "logit_bias",
            "1,025 token ids; expected at most 1,024",
        ),
        ({"stop_token_ids": [400]}, "stop_token_ids", "the token id 400; expected 0 to 399"),
        ({"stop_token_ids": [5] * 257}, "stop_token_ids", "at most 256"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens", "min_tokens=9; expected at most 8"),
        ({"ignore_eos": 1}, "ignore_eos", "1; input should be a valid boolean"),
    ],
)
def test_values_out_of_range_are_refused_with_value_and_range(
    live: Served, path: str, change: dict[str, Any], param: str, message: str
):
    bodies = {
        CHAT: {"messages": TALK},
        COMPLETE: {"prompt": "Hello"},
        ANSWER: {"question": "What colour is the ball?"},
    }
    response = live.http.post(path, json=bodies[path] | change)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert message in error["message"]


def test_fewer_than_all_tokens_is_refused(live: Served):
    error = live.http.post(CHAT, json={"messages": TALK, "top_k": -2}).json()["error"]
    assert error["message"] == "'top_k': -2; input should be greater than or equal to -1"


def test_a_number_of_any_length_is_shown_in_part(live: Served):
    body = b'{"messages": [{"role": "user", "content": "a"}], "temperature": ' + b"9" * 9999 + b"}"
    response = live.http.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert len(response.json()["error"]["message"]) < 200
