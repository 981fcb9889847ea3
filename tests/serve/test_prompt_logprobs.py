"""Completions with ``echo``: the prompt in the text, its log-probabilities, and lm-eval on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from gritlm import GritLM
from gritlm.evaluation.tasks.task import Task
from gritlm.serve.config import ServerConfig
from gritlm.serve.engine import kv_slots
from gritlm.serve.engine.limits import Limits
from gritlm.serve.engine.sequence import CHUNK
from tests.evaluation.generation.conftest import CHOICE, COLOURS
from tests.serve.conftest import LENGTH, TEXTS, Served

COMPLETE = "/v1/completions"
STORY = " ".join(TEXTS.values()) * 8


def completed(live: Served, prompt: Any, **options: Any) -> Any:
    return live.openai.completions.create(
        model="tiny", prompt=prompt, **({"temperature": 0, "max_tokens": 0, "echo": True} | options)
    )


def expected_logprobs(oracle: GritLM, ids: list[int]) -> torch.Tensor:
    """The log-probability of each token after the first one, by a plain forward pass."""
    with torch.inference_mode():
        logits_LV = oracle.model(torch.tensor([ids])).logits[0]
    logprob_LV = logits_LV[:-1].log_softmax(dim=-1)
    return logprob_LV.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def require_logprobs(oracle: GritLM, logprobs: Any, ids: list[int]) -> None:
    first, *others = logprobs.token_logprobs[: len(ids)]
    assert first is None
    assert logprobs.top_logprobs[0] is None
    torch.testing.assert_close(
        torch.tensor(others), expected_logprobs(oracle, ids), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("as_ids", [False, True])
def test_a_prompt_comes_back_with_its_log_probabilities(live: Served, oracle: GritLM, as_ids: bool):
    ids = oracle.tokenizer(STORY)["input_ids"]
    assert len(ids) > 2 * CHUNK, "it is read in several passes"
    found = completed(live, ids if as_ids else STORY, logprobs=3)
    (choice,) = found.choices
    assert choice.text == (oracle.tokenizer.decode(ids) if as_ids else STORY)
    assert choice.finish_reason == "length"
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (len(ids), 0)
    assert len(choice.logprobs.tokens) == len(ids)
    require_logprobs(oracle, choice.logprobs, ids)
    for token, logprob, top in zip(
        choice.logprobs.tokens[1:],
        choice.logprobs.token_logprobs[1:],
        choice.logprobs.top_logprobs[1:],
        strict=True,
    ):
        assert top[token] == logprob
        assert len(top) in (3, 4)
    for text, offset in zip(
        choice.logprobs.tokens[1:], choice.logprobs.text_offset[1:], strict=True
    ):
        if not text.startswith(("bytes:", "token_id:")):
            assert STORY.startswith(text, offset)


def test_prompts_of_a_slot_are_read_again_and_may_be_reused_later(live: Served, oracle: GritLM):
    ids = oracle.tokenizer(STORY)["input_ids"]
    completed(live, STORY, logprobs=1)
    again = completed(live, STORY, logprobs=1)
    assert again.usage.prompt_tokens_details.cached_tokens == 0
    require_logprobs(oracle, again.choices[0].logprobs, ids)
    plain = completed(live, STORY, echo=False, max_tokens=1)
    assert plain.usage.prompt_tokens_details.cached_tokens == len(ids) - 1


@pytest.mark.parametrize("logprobs", [None, 2])
def test_prompt_and_output_are_one_text(live: Served, oracle: GritLM, logprobs: int | None):
    """For each of several choices of several prompts, streamed and whole."""
    prompts = ["The quick brown", "Water boils"]
    options = {"max_tokens": 5, "n": 2, "logprobs": logprobs, "temperature": 1.1, "seed": 3}
    whole = completed(live, prompts, **options).choices
    plain = completed(live, prompts, **(options | {"echo": False})).choices
    texts, tokens = [""] * 4, [[] for _ in range(4)]
    for event in completed(live, prompts, stream=True, **options):
        for choice in event.choices:
            texts[choice.index] += choice.text
            tokens[choice.index] += choice.logprobs.token_logprobs if choice.logprobs else []
    for index, (one, other) in enumerate(zip(whole, plain, strict=True)):
        assert one.text == texts[index] == prompts[index // 2] + other.text
        assert (one.logprobs is None) == (logprobs is None)
        if one.logprobs is not None:
            ids = oracle.tokenizer(prompts[index // 2])["input_ids"]
            assert one.logprobs.token_logprobs == tokens[index]
            assert len(tokens[index]) == len(ids) + 5
            require_logprobs(oracle, one.logprobs, ids)
            assert one.logprobs.token_logprobs[len(ids) :] == pytest.approx(
                other.logprobs.token_logprobs, abs=1e-4
            )


def test_with_echo_the_end_token_is_reported_too(live: Served, oracle: GritLM):
    """lm-eval counts on one token more than the prompt has."""
    end = min(oracle.end_ids)
    found = completed(
        live, "Water", max_tokens=1, logprobs=1, extra_body={"logit_bias": {str(end): 100}}
    )
    (choice,) = found.choices
    ids = oracle.tokenizer("Water")["input_ids"]
    assert choice.finish_reason == "stop"
    assert choice.text == "Water"
    assert len(choice.logprobs.token_logprobs) == len(ids) + 1


def test_a_prompt_may_fill_the_model_if_nothing_follows(live: Served, oracle: GritLM):
    ids = [5] * LENGTH
    found = completed(live, ids, logprobs=1)
    require_logprobs(oracle, found.choices[0].logprobs, ids)
    assert live.http.post(COMPLETE, json={"prompt": ids, "max_tokens": 1}).status_code == 400


def test_other_sequences_go_on_beside_a_prompt_with_log_probabilities(live: Served, oracle: GritLM):
    alone = completed(live, "Cats sleep", echo=False, max_tokens=40).choices[0].text
    ids = oracle.tokenizer(STORY)["input_ids"]
    with ThreadPoolExecutor(6) as pool:
        chats = [
            pool.submit(completed, live, "Cats sleep", echo=False, max_tokens=40) for _ in range(3)
        ]
        scored = [pool.submit(completed, live, STORY, logprobs=1) for _ in range(3)]
        assert {each.result().choices[0].text for each in chats} == {alone}
        for each in scored:
            require_logprobs(oracle, each.result().choices[0].logprobs, ids)


def test_a_model_that_reads_prompts_in_one_pass_has_them_too(
    serve: Callable[..., Served], oracle: GritLM, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kv_slots, "obstacle", lambda lm: "a test")
    separate = serve(ServerConfig(port=0, names=("tiny",)), Limits(max_num_seqs=2))
    ids = oracle.tokenizer(STORY)["input_ids"]
    found = completed(separate, STORY, logprobs=1, max_tokens=3)
    require_logprobs(oracle, found.choices[0].logprobs, ids)


def test_a_prompt_may_come_back_alone(live: Served):
    (choice,) = completed(live, STORY).choices
    assert (choice.text, choice.logprobs, choice.finish_reason) == (STORY, None, "length")


def test_prompts_with_log_probabilities_have_a_bound(live: Served):
    body = {"prompt": [[5] * 500] * 9, "n": 16, "max_tokens": 0, "echo": True, "logprobs": 1}
    response = live.http.post(COMPLETE, json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "prompt"
    assert "have 72,000 tokens, with echo and logprobs at most 65,536" in error["message"]


def test_a_long_response_is_built_beside_the_event_loop(live: Served):
    ids = [[5 + number] * 500 for number in range(4)]
    choices = completed(live, ids, logprobs=1).choices
    assert [len(choice.logprobs.tokens) for choice in choices] == [500] * 4
    assert [choice.logprobs.tokens[0] for choice in choices] == [
        live.service.first.token_texts.of(5 + number) for number in range(4)
    ]


def test_no_tokens_without_echo_are_refused(live: Served):
    error = live.http.post(COMPLETE, json={"prompt": "a", "max_tokens": 0}).json()["error"]
    assert error["param"] == "max_tokens"
    assert error["message"].startswith("max_tokens=0 generates nothing; expected at least 1")


def test_lm_eval_scores_a_task_as_in_process(
    live: Served, oracle: GritLM, folder: Path, tmp_path: Path
):
    """The same task with the same weights, by ``local-completions`` and without a server."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from gritlm.evaluation.generation import library, loading
    from gritlm.evaluation.generation.harness import GritLMHarness

    (tmp_path / "task.yaml").write_text(CHOICE, encoding="utf-8")
    rows = "".join(json.dumps(row) + "\n" for row in COLOURS)
    (tmp_path / "test.jsonl").write_text(rows, encoding="utf-8")
    client = LocalCompletionsAPI(
        base_url=f"{live.url}{COMPLETE}",
        model="tiny",
        tokenizer_backend="huggingface",
        tokenizer=str(folder),
        batch_size=2,
        max_length=LENGTH,
        add_bos_token=True,
    )
    found = {}
    with library.quiet():
        for name, lm in {"server": client, "here": GritLMHarness(oracle)}.items():
            (task,) = loading.load(Task("colours", "generation", "multiple_choice", tmp_path))
            found[name] = evaluate(lm=lm, task_dict={"tasks": {"colours": task}}, bootstrap_iters=0)
    assert found["server"]["results"] == found["here"]["results"]
    for one, other in zip(*(each["samples"]["colours"] for each in found.values()), strict=True):
        for (theirs, greedy), (ours, also) in zip(
            one["filtered_resps"], other["filtered_resps"], strict=True
        ):
            assert float(theirs) == pytest.approx(float(ours), abs=1e-4)
            assert greedy == also
