"""Which generative rows are read a second time, as the reference of a divergence."""

from __future__ import annotations

from random import Random

import pytest
import torch

from gritlm.lm.hub.model_config import ModelSettings
from gritlm.lm.tokens import Prompt, SegmentTokenizer
from gritlm.train.config import DataConfig, LossConfig, RagConfig
from gritlm.train.data.collate import Collator
from gritlm.train.data.examples import ChatExample, RagExample
from gritlm.train.data.packing import PackedBatch
from gritlm.train.model import hidden_states
from gritlm.train.objectives.generation import GenerationObjective
from gritlm.train.objectives.gradcache import Ranks
from gritlm.train.trainer import train
from tests import tiny
from tests.train import runs

CHAT = ChatExample(tuple(runs.CHATS[0]["messages"]))
QUESTION = RagExample("who?", ("Ann has a ball.", "Bob has a car."), "Ann")


def sample(row: ChatExample | RagExample, *modes: str) -> Prompt:
    tokens = SegmentTokenizer(tiny.tokenizer())
    made = Collator(
        tokens, ModelSettings(), DataConfig(), RagConfig(modes=modes or ("none",))
    ).sample(row, Random(0))
    assert made is not None
    return made


SAMPLES = {"chat": sample(CHAT), "none": sample(QUESTION, "none"), "doc": sample(QUESTION, "doc")}


def weighed(said: LossConfig, *, most: int = 0) -> list[tuple[int, float, bool, float]]:
    """Of each micro-batch: its rows, weight and kind of its divergence, what its tokens count."""
    seen = []

    def write(rows: PackedBatch, weights: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        seen.append((len(rows.ids_BL), weights.kl, weights.own, float(weights.token_N.sum())))
        return torch.zeros((), requires_grad=True), {}

    ranks = Ranks(most=lambda own: max(own, most))
    writing = GenerationObjective(said, budget=4096, capacity=None)
    writing.backward(write, list(SAMPLES.values()), ranks, device=torch.device("cpu"))
    return seen


def test_rag_rows_without_blocks_are_no_reference_of_themselves():
    found = [row[:3] for row in weighed(LossConfig(kl_weight=0.3, rag_kl_weight=0.5))]
    assert found == [(1, 0.5, True), (1, 0.0, True), (1, 0.3, False)]


def test_without_a_divergence_all_rag_rows_are_read_together():
    assert [row[:3] for row in weighed(LossConfig())] == [(2, 0.0, True), (1, 0.0, False)]


def test_every_token_of_a_step_counts_once_however_it_is_split():
    for said in (LossConfig(), LossConfig(kl_weight=0.3, rag_kl_weight=0.5)):
        assert sum(row[3] for row in weighed(said)) == pytest.approx(1)


def test_a_process_with_fewer_of_a_kind_reads_others_for_nothing():
    """All processes read twice equally often."""
    found = weighed(LossConfig(kl_weight=0.3, rag_kl_weight=0.5), most=2)
    assert [row[1:3] for row in found] == [(0.5, True)] * 2 + [(0.0, True)] * 2 + [(0.3, False)] * 2
    assert [row[3] > 0 for row in found] == [True, False] * 3


def test_a_run_on_rows_without_blocks_is_the_same_with_their_divergence(tmp_path, monkeypatch):
    said = {"rag_options": {"modes": ("none",)}, "training": {"mode": "generative"}}
    plain = runs.make(tmp_path, rag=True, **said)
    train(plain)
    calls = []
    monkeypatch.setattr(hidden_states, "generative_states", lambda *rows: calls.append(rows))
    output = {"mode": "generative", "output_dir": str(tmp_path / "other")}
    other = runs.make(
        tmp_path, rag=True, loss={"rag_kl_weight": 0.5}, **{**said, "training": output}
    )
    train(other)
    runs.assert_same_course(plain, other, 0)
    assert not calls
