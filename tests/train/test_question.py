"""The question objective: the passage after which a question is likeliest is the right one."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.lm.generator import prefix_cache
from gritlm.prompts import for_question
from gritlm.rag.reuse.reuse_check import blocks_of
from gritlm.train.config import LossConfig, RagConfig, TrainConfig
from gritlm.train.data import rag_samples
from gritlm.train.data.collate import Collator
from gritlm.train.data.examples import EmbeddingExample, InstructedText
from gritlm.train.data.loader import BatchShare, Loader
from gritlm.train.model.build import TrainingParts, build
from gritlm.train.objectives.gradcache import Ranks
from gritlm.train.objectives.question import Group, QuestionObjective, choice_loss
from gritlm.train.run import metrics_log
from gritlm.train.trainer import train
from tests.train import runs

BOUND = 1e-5
SETTINGS = LossConfig(question_weight=0.5, question_temperature=0.3)
RIGHT, *WRONG = (InstructedText(t) for t in ("3 cats sleep", "dogs walk 9 miles", "water boils"))
ROW = EmbeddingExample(InstructedText("what of the 3 cats"), (RIGHT,), tuple(WRONG))


@pytest.fixture
def parts(tmp_path: Path) -> TrainingParts:
    found = build(runs.make(tmp_path))
    found.trainee.train()
    return found


def collator(parts: TrainingParts, run: TrainConfig, **rag: object) -> Collator:
    return Collator(parts.tokens, parts.settings, run.data, RagConfig(**rag))


@pytest.fixture
def groups(parts: TrainingParts, tmp_path: Path) -> list[Group]:
    """Three questions, after three, two and three passages."""
    made = collator(parts, runs.make(tmp_path), question_passages=3)
    fewer = replace(ROW, query=InstructedText("who walks nine miles"), negatives=(RIGHT,))
    other = replace(ROW, query=InstructedText("when does it boil"))
    return [made.question_group(row, Random(i)) for i, row in enumerate((ROW, fewer, other))]


def gradients(parts: TrainingParts) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in parts.trainee.named_parameters() if p.grad is not None}
    parts.trainee.zero_grad(set_to_none=True)
    return found


def backward(
    parts: TrainingParts, groups: list[Group], *, budget: int = 4096, ranks: Ranks | None = None
) -> dict[str, float]:
    objective = QuestionObjective(SETTINGS, budget=budget)
    return objective.backward(
        partial(parts.trainee, "score"),
        groups,
        ranks or Ranks(),
        spare=groups[0][0],
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("kind", ["bidirectional", "causal"])
def test_a_score_is_the_mean_log_likelihood_after_the_served_block(parts, tmp_path, kind):
    made = collator(parts, runs.make(tmp_path), blocks=(kind,), question_passages=3)
    group = made.question_group(ROW, Random(0))
    with torch.no_grad():
        ours_B = parts.trainee("score", rag_samples.rows(group, pad=0))
    served = GritLM.around(parts.trainee.causal.eval(), parts.tokenizer, parts.settings)
    tail = parts.tokens.for_chat(for_question(ROW.query.text), start=False)
    ((start, end),) = tail.trained
    target_N1 = torch.tensor(tail.ids[start:end])[:, None]
    expected = []
    for sample in group:
        ids = sample.ids[: sample.blocks[0].end]
        (block,) = blocks_of(served.lm, [ids], causal=kind == "causal")
        cache = prefix_cache(served.lm, [block], room=len(tail.ids))
        with torch.no_grad():
            logits_LV = served.lm.logits(torch.tensor(tail.ids)[None], cache=cache)[0]
        logp_NV = logits_LV[start - 1 : end - 1].log_softmax(dim=-1)
        expected.append(float(logp_NV.gather(1, target_N1).mean()))
    assert ours_B.tolist() == pytest.approx(expected, abs=BOUND)
    assert len(set(expected)) == 3


def test_a_group_has_the_right_passage_first_then_negatives_of_its_row(parts, groups):
    texts = [
        parts.tokenizer.decode(sample.ids[: sample.blocks[0].end], skip_special_tokens=True)
        for sample in groups[0]
    ]
    assert [RIGHT.text in text for text in texts] == [True, False, False]
    assert all(any(wrong.text in text for text in texts[1:]) for wrong in WRONG)
    assert [len(group) for group in groups] == [3, 2, 3]


def test_without_negatives_or_room_there_is_no_group(parts, tmp_path):
    run = runs.make(tmp_path)
    assert collator(parts, run).question_group(replace(ROW, negatives=()), Random(0)) == ()
    short = replace(run, data=replace(run.data, generative_max_len=8))
    assert collator(parts, short).question_group(ROW, Random(0)) == ()


def test_the_loss_is_the_cross_entropy_of_the_first_passage_of_each_group():
    score_B = torch.tensor([0.0, 0.6, -1.0, 0.3, 0.1], requires_grad=True)
    loss = choice_loss(score_B, [3, 2], 0.5)
    first = -math.log(1 / (1 + math.exp(0.6 / 0.5) + math.exp(-1 / 0.5)))
    second = -math.log(1 / (1 + math.exp((0.1 - 0.3) / 0.5)))
    assert loss.item() == pytest.approx(first + second, abs=BOUND)
    loss.backward()
    shares_P = torch.softmax(score_B.detach()[:3] / 0.5, dim=0) - torch.tensor([1.0, 0.0, 0.0])
    assert torch.allclose(score_B.grad[:3], shares_P / 0.5, atol=BOUND)


def test_gradients_are_those_of_the_plain_loss_for_any_budget(parts, groups):
    total = torch.zeros(())
    for group in groups:
        hidden_BLV = parts.trainee.causal(
            (rows := rag_samples.rows(group, pad=0)).ids_BL,
            attention_mask=torch.zeros_like(
                rows.seen_BLL[:, None], dtype=torch.float32
            ).masked_fill(~rows.seen_BLL[:, None], float("-inf")),
            position_ids=rows.position_BL,
        ).logits
        logp_BLV = hidden_BLV[:, :-1].log_softmax(dim=-1)
        scores = []
        for logp_LV, label_L in zip(logp_BLV, rows.labels_BL[:, 1:], strict=True):
            at_N = (label_L >= 0).nonzero()[:, 0]
            scores.append(logp_LV[at_N, label_L[at_N]].mean())
        score_P = torch.stack(scores) / SETTINGS.question_temperature
        total = total - score_P.log_softmax(dim=0)[0]
    loss = SETTINGS.question_weight * total / len(groups)
    loss.backward()
    plain = gradients(parts)
    for budget in (1, 70, 4096):
        found = backward(parts, groups, budget=budget)
        assert found["question"] == pytest.approx(loss.item(), abs=BOUND)
        ours = gradients(parts)
        assert ours.keys() == plain.keys()
        for name, slope in plain.items():
            assert torch.allclose(ours[name], slope, atol=BOUND), name


def test_a_process_with_fewer_groups_reads_others_for_nothing(parts, groups):
    backward(parts, groups)
    alone = gradients(parts)
    more = backward(parts, groups, ranks=Ranks(most=lambda count: count + 2))
    assert more == pytest.approx(backward(parts, groups), abs=BOUND)
    parts.trainee.zero_grad(set_to_none=True)
    backward(parts, groups, ranks=Ranks(most=lambda count: count + 2))
    for name, slope in gradients(parts).items():
        assert torch.allclose(slope, alone[name], atol=BOUND), name


def test_only_questions_of_marked_sources_are_read(tmp_path):
    said = {"loss": {"question_weight": 0.5}, "rag_options": {"question_rows": 3}}
    plain, marked = (runs.make(tmp_path, asks=asks, **said) for asks in (False, True))
    parts = build(plain)
    batches = [
        Loader(run, Collator(parts.tokens, parts.settings, run.data, run.rag), BatchShare()).next(1)
        for run in (plain, marked)
    ]
    assert [len(batch.questions) for batch in batches] == [0, 3]
    assert batches[1].tokens > batches[0].tokens


def test_training_makes_the_right_passage_likelier(tmp_path):
    run = runs.make(
        tmp_path,
        asks=True,
        loss={"question_weight": 5.0, "question_temperature": 0.1},
        training={"max_steps": 30, "learning_rate": 3e-3},
    )
    train(run)
    entries = [e for e in metrics_log.read(Path(run.training.output_dir)) if "loss" in e]
    lost = [entry["loss_question"] for entry in entries]
    right = [entry["loss_question/right"] for entry in entries]
    assert sum(lost[-5:]) < 0.7 * sum(lost[:5])
    assert sum(right[-5:]) > sum(right[:5])
    first = entries[0]
    terms = first["loss_emb"] + first["loss_gen"] + first["loss_question"]
    assert first["loss"] == pytest.approx(terms, abs=BOUND)


def test_settings_out_of_range_are_refused():
    with pytest.raises(InputError, match="question_temperature"):
        LossConfig(question_temperature=0)
    with pytest.raises(InputError, match="question_passages"):
        RagConfig(question_passages=1)
