"""The same requests through GritLM and through lm-eval's own `hf` model over the same weights."""

from __future__ import annotations

from typing import Any

import pytest
from lm_eval.evaluator import evaluate

from gritlm import GritLM
from gritlm.evaluation.generation import library, lm_eval_run, loading
from gritlm.evaluation.generation.harness import GritLMHarness
from tests import tiny

from .conftest import CHOICE, COLOURS, asked, hf

STORY = " ".join(tiny.SENTENCES)
PAIRS = [
    ("Ann has a red ball, Bob has", " a blue car"),
    ("Ann has a red ball, Bob has", " a red ball"),
    ("Ann has a red ball, Bob has", " a"),
    ("The colour is ", "red"),  # a space that belongs to what follows
    ("", "Water boils at 100 degrees"),
    ("Answer:", " A"),
    ("Answer:", " B"),
    ("Answer:", " B"),
    (STORY, " Dogs like long walks."),
    (STORY * 3, " Cats sleep."),  # longer than the model takes
    ("<s>Cats sleep", " most of the day"),  # brings its own BOS
]


def assert_same(found: list[Any], expected: list[Any]) -> None:
    for (one, greedy), (other, also) in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
        assert greedy == also


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_neox", "cohere2"])
def test_log_likelihoods_agree(family, tiny_model):
    folder = tiny_model(family)
    ours = GritLMHarness(GritLM(folder, device="cpu", dtype="float32", mode="generative"))
    requests = asked("loglikelihood", PAIRS)
    assert_same(ours.loglikelihood(requests), hf(folder).loglikelihood(requests, disable_tqdm=True))


def test_rolling_log_likelihoods_agree(ours, theirs):
    texts = [("Dogs like long walks.",), (STORY * 4,), ("",)]
    requests = asked("loglikelihood_rolling", texts)
    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    assert ours.loglikelihood_rolling(requests) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("until", [[], ["."], ["e", "\n\n"], " "])
def test_greedy_texts_agree(until, ours, theirs):
    contexts = ["Cats sleep", "A model that reads, searches and", "Water", STORY * 2, "Dogs"]
    how = {"until": until, "max_gen_toks": 12, "do_sample": False, "temperature": 0.0}
    requests = asked("generate_until", [(context, how) for context in contexts])
    assert ours.generate_until(requests) == theirs.generate_until(requests, disable_tqdm=True)


def test_requests_in_several_manners_come_back_in_their_order(ours, theirs):
    requests = asked(
        "generate_until",
        [
            (context, {"until": ["."], "max_gen_toks": size})
            for size, context in [(3, "Cats"), (9, "Dogs"), (3, "Dogs"), (9, "Cats"), (3, "Cats")]
        ],
    )
    assert ours.generate_until(requests) == theirs.generate_until(requests, disable_tqdm=True)


def test_a_task_gets_the_same_score(task, model, theirs):
    made = task(CHOICE, COLOURS)
    with library.quiet():
        loaded = {"tasks": {one.task_name: one for one in loading.load(made)}}
        expected = evaluate(lm=theirs, task_dict=loaded, bootstrap_iters=0)["results"]["colours"]
    found = lm_eval_run.measure(model, made)
    assert found.score == pytest.approx(100 * expected["acc_norm,none"])
    assert found.details == {"acc": pytest.approx(100 * expected["acc,none"])}


@pytest.mark.slow
def test_the_default_model_agrees(default_folder):
    ours = GritLMHarness(GritLM(default_folder, device="cpu", dtype="float32", adapter=None))
    theirs = hf(default_folder)
    requests = asked("loglikelihood", PAIRS)
    assert_same(ours.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True))
    how = {"until": ["\n"], "max_gen_toks": 24, "do_sample": False}
    written = asked("generate_until", [(text, how) for text in ("Water boils at", "Ann has a red")])
    assert ours.generate_until(written) == theirs.generate_until(written, disable_tqdm=True)
