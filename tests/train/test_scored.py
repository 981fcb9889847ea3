"""Scored pairs: their loss against sentence-transformers, in parts, and in whole runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import CoSENTLoss
from torch import Tensor

from gritlm import GritLM, gritlm_instruction
from gritlm.errors import InputError
from gritlm.lm.unified import UnifiedLM
from gritlm.train.config import EvaluationConfig, LossConfig
from gritlm.train.data.collate import ScoredBatch
from gritlm.train.objectives import losses
from gritlm.train.objectives.embedding import EmbeddingObjective
from gritlm.train.objectives.evaluation import spearman
from gritlm.train.objectives.gradcache import Ranks
from gritlm.train.run import metrics_log
from gritlm.train.trainer import train
from tests import tiny
from tests.train import runs
from tests.train.reading import Reader, distance, prompts

BOUND = 1e-5
FIRST, SECOND = prompts(6, seed=1), prompts(6, seed=2)
SCORES = torch.tensor([4.0, 0.0, 2.5, 4.0, 1.0, 2.5], dtype=torch.float64)
UNCUT = {"query_max_len": 200, "passage_max_len": 200}
BATCH = ScoredBatch(FIRST, SECOND, [], [], SCORES)


def sides(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Vectors of any length."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, count, 8, generator=generator)
    return first.requires_grad_(), second.requires_grad_()


@pytest.mark.parametrize("scale", [1.0, 5.0, -0.01])
@pytest.mark.parametrize("temperature", [0.05, 0.2])
def test_value_and_gradient_are_those_of_sentence_transformers(scale, temperature):
    first, second = sides(40, seed=3)
    score = scale * torch.randint(0, 6, (40,), generator=torch.Generator().manual_seed(4))
    theirs = CoSENTLoss(torch.nn.Identity(), scale=1 / temperature)
    expected = theirs.compute_loss_from_embeddings([first, second], score)
    ours = losses.cosent(first, second, score, temperature=temperature)
    assert ours.item() == pytest.approx(expected.item(), rel=BOUND)
    slopes = zip(*(torch.autograd.grad(x, (first, second)) for x in (ours, expected)), strict=True)
    for mine, other in slopes:
        assert (mine - other).abs().max() <= BOUND * other.abs().max()


@pytest.mark.parametrize("count", [1, 5])
def test_pairs_of_equal_score_give_zero_and_no_gradient(count):
    first, second = sides(count, seed=1)
    loss = losses.cosent(first, second, torch.full((count,), 3.0), temperature=0.05)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(first.grad, torch.zeros_like(first))


def test_a_low_temperature_does_not_overflow():
    first, second = sides(20, seed=1)
    loss = losses.cosent(first, second, torch.arange(20), temperature=1e-6)
    loss.backward()
    assert loss.isfinite()
    assert first.grad.isfinite().all()


def test_of_scores_the_order_alone_counts():
    first, second = sides(9, seed=1)
    score = torch.arange(9.0).double()
    one, other = (losses.cosent(first, second, s, temperature=0.05) for s in (score, score.exp()))
    assert torch.equal(one, other)


def test_pairs_in_the_right_order_cost_less_than_in_the_wrong_one():
    first, second = sides(9, seed=1)
    cosine = losses.cosines(first, second).detach()
    right, wrong = (losses.cosent(first, second, s, temperature=0.05) for s in (cosine, -cosine))
    assert right < wrong


@pytest.mark.parametrize("dims", [(), (48, 12)])
@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_mini_batches_equal_one_batch(budget, dims):
    read = Reader(UnifiedLM(tiny.model()))

    def pairs(first: Tensor, second: Tensor) -> Tensor:
        return losses.cosent(first, second, SCORES, temperature=0.1)

    expected = (losses.matryoshka(pairs, dims) if dims else pairs)(read(FIRST), read(SECOND))
    (2 * expected).backward()
    slopes = read.gradients()
    said = LossConfig(scored_temperature=0.1, scored_weight=2.0, matryoshka_dims=dims)
    found = EmbeddingObjective(said, budget=budget, at_once=40).backward(read, BATCH, Ranks())
    assert found == {"emb": found["emb"], "scored": found["emb"]}
    assert found["emb"] == pytest.approx(2 * expected.item(), rel=BOUND)
    assert distance(read.gradients(), slopes) <= BOUND


def test_steps_of_scored_pairs_stand_among_the_others(tmp_path):
    run = runs.make(tmp_path, scored=True, training={"max_steps": 12, "learning_rate": 1e-4})
    train(run)
    parts = [
        {name for name in ("contrastive", "scored") if f"loss_emb/{name}" in entry}
        for entry in metrics_log.read(tmp_path / "out")
    ]
    assert all(len(each) == 1 for each in parts)
    assert {name for each in parts for name in each} == {"contrastive", "scored"}


def alone(folder: Any, **training: Any) -> Any:
    """A run on scored pairs only."""
    pairs = (runs.write(folder / "scored.jsonl", runs.SCORED),)
    return runs.make(
        folder, data={"embedding": pairs, **UNCUT}, training={"mode": "embedding", **training}
    )


def test_training_brings_the_order_of_the_cosines_near_that_of_the_scores(tmp_path):
    run = alone(tmp_path, max_steps=20, learning_rate=3e-3)
    held = EvaluationConfig(embedding=run.data.embedding, eval_steps=1)
    train(replace(run, evaluation=held))
    entries = metrics_log.read(tmp_path / "out")
    measured = [entry["eval/spearman"] for entry in entries if "eval/spearman" in entry]
    assert measured[-1] > 0.8 > measured[0]
    assert not any("eval/accuracy" in entry or "eval/loss_emb" in entry for entry in entries)


def test_what_is_measured_is_what_is_served(tmp_path):
    run = runs.make(tmp_path, scored=True, data=UNCUT)
    held = EvaluationConfig(embedding=run.data.embedding)
    metrics = train(replace(run, evaluation=held)).metrics
    assert {"eval/spearman", "eval/accuracy", "eval/loss_emb"} <= metrics.keys()
    model = GritLM(tmp_path / "out", dtype="float32", device="cpu")
    told, plain = gritlm_instruction("same words"), gritlm_instruction()
    first = model.encode([row["sentence1"][1] for row in runs.SCORED], instruction=told)
    second = model.encode([row["sentence2"] for row in runs.SCORED], instruction=plain)
    cosine, score = torch.tensor((first * second).sum(axis=1)), [r["score"] for r in runs.SCORED]
    expected = spearman(cosine, torch.tensor(score))
    assert metrics["eval/spearman"] == pytest.approx(expected, abs=1e-3)


def test_two_accumulated_steps_equal_one(tmp_path):
    one = alone(tmp_path)
    two = runs.elsewhere(
        one, "two", gradient_accumulation_steps=2, per_device_train_batch_size=4, token_budget=64
    )
    train(one)
    train(two)
    runs.assert_same_course(one, two, BOUND)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = runs.make(tmp_path, scored=True, training={"max_steps": 6, "save_steps": 3})
    train(whole)
    start = str(tmp_path / "out" / "checkpoint-000003")
    (tmp_path / "parted").mkdir()
    train(runs.elsewhere(whole, "parted", resume_from_checkpoint=start))
    runs.assert_same_weights(tmp_path / "out", tmp_path / "parted", 1e-7)


def test_scored_pairs_in_steps_with_other_sources_are_refused(tmp_path):
    run = runs.make(tmp_path, scored=True)
    mixed = replace(run, data=replace(run.data, same_source_batches=False))
    with pytest.raises(InputError, match="scored has scored pairs, which need steps of their own"):
        train(mixed)


def test_held_out_scores_without_an_order_are_refused(tmp_path):
    same = runs.write(tmp_path / "same.jsonl", [row | {"score": 1} for row in runs.SCORED])
    run = replace(runs.make(tmp_path), evaluation=EvaluationConfig(embedding=(same,)))
    with pytest.raises(InputError, match="the scores of same are all equal"):
        train(run)


def test_an_instruction_that_leaves_no_room_is_found_before_the_first_step(tmp_path):
    long = {"sentence1": "a", "sentence2": ["word " * 60, "b"], "score": 1}
    pairs = runs.write(tmp_path / "long.jsonl", [*runs.SCORED, long])
    with pytest.raises(InputError, match=r"long.jsonl:25: passage_max_len = 48: .*no room"):
        train(runs.make(tmp_path, data={"embedding": (pairs,)}))
