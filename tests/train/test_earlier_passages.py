"""Passages of earlier steps as negatives: order, duplicates, masks, and their place in the loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gritlm.errors import InputError
from gritlm.train.config import LossConfig
from gritlm.train.data.collate import EmbeddingBatch, Keys, key
from gritlm.train.model.layers import graph_share, layer_names
from gritlm.train.objectives import losses
from gritlm.train.objectives.earlier_passages import EarlierPassages
from gritlm.train.objectives.embedding import EmbeddingObjective
from gritlm.train.objectives.gradcache import Ranks
from gritlm.train.trainer import Trainer
from tests.train import runs
from tests.train.reading import prompts


def keys(queries: list[str], passages: list[str]) -> Keys:
    """Return the keys of queries with one passage each."""
    query_Q = torch.tensor([key(text) for text in queries])
    passage_P = torch.tensor([key(text) for text in passages])
    return Keys(
        query_Q=query_Q,
        passage_P=passage_P,
        positive_QM=passage_P[:, None],
        owner_P=query_Q,
        first_P=torch.ones(len(passages), dtype=torch.bool),
    )


def vectors(*numbers: float) -> Tensor:
    return torch.tensor(numbers)[:, None]


def test_the_newest_passages_are_kept_each_of_them_once():
    earlier = EarlierPassages(3)
    assert earlier.beyond(keys(["a"], ["x"]))[0] is None
    earlier.add(vectors(1, 2), keys(["a", "b"], ["x", "y"]))
    earlier.add(vectors(3, 4), keys(["a", "c"], ["x", "z"]))
    found, _ = earlier.beyond(keys(["d"], ["none"]))
    assert found is not None
    assert found.flatten().tolist() == [3, 4, 2]
    earlier.add(vectors(5), keys(["e"], ["w"]))
    found, _ = earlier.beyond(keys(["d"], ["z"]))
    assert found is not None
    assert found.flatten().tolist() == [5, 3]  # y was the oldest, and the batch has z itself


def test_a_passage_that_is_twice_in_a_batch_is_kept_once():
    earlier = EarlierPassages(10)
    earlier.add(vectors(1, 2, 3), keys(["a", "b", "c"], ["x", "x", "y"]))
    found, _ = earlier.beyond(keys(["d"], ["none"]))
    assert found is not None
    assert found.flatten().tolist() == [2, 3]


def test_an_earlier_passage_of_the_same_question_is_no_negative():
    earlier = EarlierPassages(10)
    earlier.add(vectors(1, 2), keys(["a", "b"], ["x", "y"]))
    found, every = earlier.beyond(keys(["a"], ["z"]))
    assert found is not None
    assert len(found) == 2
    assert every.false_negatives().tolist() == [[True, True, False]]


def batch(seed: int) -> EmbeddingBatch:
    """Return four queries with a passage each."""
    names = [f"{seed} {number}" for number in range(4)]
    found = keys([f"q {name}" for name in names], [f"p {name}" for name in names])
    return EmbeddingBatch(prompts(4, seed=seed), prompts(4, seed=seed + 50), [], [], found)


def embedder(size: int = 12):
    """Return a table of token vectors, and prompts to the sums of theirs."""
    table = torch.randn(300, size, generator=torch.Generator().manual_seed(7)).requires_grad_()
    return table, lambda texts: torch.stack([table[text.ids].sum(dim=0) for text in texts])


@pytest.mark.parametrize("dims", [(), (12, 6)])
def test_the_loss_and_its_gradients_are_those_with_fixed_further_passages(dims):
    settings = LossConfig(temperature=0.5, matryoshka_dims=dims, earlier_passages=8)
    table, embed = embedder()
    objective = EmbeddingObjective(settings, budget=40, at_once=40, earlier=EarlierPassages(8))
    objective.backward(embed, batch(1), Ranks())
    table.grad = None
    with torch.no_grad():
        earlier_PD = embed(batch(1).passages)
    found = objective.backward(embed, batch(2), Ranks())["emb"]
    grad, table.grad = table.grad, None

    def contrastive(query_QD: Tensor, passage_PD: Tensor) -> Tensor:
        return losses.contrastive(
            query_QD, passage_PD, temperature=0.5, positives=torch.arange(len(query_QD))
        )

    loss = losses.matryoshka(contrastive, dims) if dims else contrastive
    expected = loss(embed(batch(2).queries), torch.cat([embed(batch(2).passages), earlier_PD]))
    expected.backward()
    assert found == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(grad, table.grad, rtol=1e-4, atol=1e-6)
    without = EmbeddingObjective(settings, budget=40, at_once=40).backward(embed, batch(2), Ranks())
    assert found > without["emb"]


def test_a_run_has_the_passages_of_earlier_steps(tmp_path):
    run = runs.make(tmp_path, loss={"earlier_passages": 5})
    trainer = Trainer(run, progress=False)
    earlier = trainer.embedding_objective.earlier
    assert earlier is not None
    for number in range(1, 4):
        trainer.step(number)
    assert len(earlier) == 5
    trainer.metrics.close()


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_frozen_lower_layers_have_no_graph_and_more_tokens_fit(tmp_path, family):
    whole = Trainer(runs.make(tmp_path / "whole", family=family), progress=False)
    whole.metrics.close()
    decoder = whole.parts.trainee.decoder
    names = layer_names(decoder)
    assert len(names) == decoder.config.num_hidden_layers > 1
    assert graph_share(decoder) == 1.0
    model = {"lora": True, "freeze": names[:1]}
    part = Trainer(runs.make(tmp_path / "part", family=family, model=model), progress=False)
    part.metrics.close()
    share = (len(names) - 1) / len(names)
    assert graph_share(part.parts.trainee.decoder) == share
    budgets = [each.embedding_objective.budget for each in (whole, part)]
    assert budgets[1] == int(budgets[0] / share)


def test_a_negative_number_is_refused():
    with pytest.raises(InputError, match="earlier_passages = -1; expected at least 0"):
        LossConfig(earlier_passages=-1)
