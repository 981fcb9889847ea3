"""GradCache against one big batch."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from gritlm.errors import InputError
from gritlm.lm.unified import UnifiedLM
from gritlm.train.objectives import gradcache, losses
from tests import tiny
from tests.train.reading import Reader, distance, prompts

BOUND = 1e-5
LOSS = partial(losses.contrastive, temperature=0.1)
QUERIES, PASSAGES = prompts(4, seed=1), prompts(8, seed=2)
TOKENS = sum(len(prompt.ids) for prompt in QUERIES + PASSAGES)


def reader(family: str = "llama", **changes: object) -> Reader:
    return Reader(UnifiedLM(tiny.model(family, **changes)))


def one_batch(read: Reader) -> tuple[Tensor, dict[str, Tensor]]:
    loss = LOSS(read(QUERIES), read(PASSAGES))
    loss.backward()
    return loss.detach(), read.gradients()


@pytest.mark.parametrize("family", ["llama", "mixtral", "qwen3"])
@pytest.mark.parametrize("budget", [1, 40, 90, 10_000])
@pytest.mark.parametrize("kept", [0, 60, 10_000])
def test_gradcache_equals_one_big_batch(family, budget, kept):
    read = reader(family)
    loss, expected = one_batch(read)
    ours = gradcache.backward(read, [QUERIES, PASSAGES], LOSS, budget=budget, kept=kept)
    assert torch.allclose(ours, loss, rtol=BOUND)
    assert distance(read.gradients(), expected) <= BOUND


@pytest.mark.parametrize("budget", [1, 40, 90])
@pytest.mark.parametrize("kept", [0, 60, 10_000])
def test_dropout_is_the_same_in_both_passes(budget, kept):
    read = reader(attention_dropout=0.3)
    read._lm[0].bidirectional.train()
    texts = QUERIES + PASSAGES
    rounds = gradcache.plan(texts, budget)
    torch.manual_seed(5)
    parts = torch.cat([read([texts[row] for row in rows]) for rows in rounds])
    vectors = parts[torch.tensor([row for rows in rounds for row in rows]).argsort()]
    loss = LOSS(vectors[:4], vectors[4:])
    loss.backward()
    expected = read.gradients()

    torch.manual_seed(5)
    ours = gradcache.backward(read, [QUERIES, PASSAGES], LOSS, budget=budget, kept=kept)
    assert torch.allclose(ours, loss.detach(), rtol=BOUND)
    assert distance(read.gradients(), expected) <= BOUND


def test_random_numbers_go_on_as_after_the_first_pass():
    read = reader(attention_dropout=0.3)
    read._lm[0].bidirectional.train()
    with torch.no_grad():
        torch.manual_seed(5)
        for rows in gradcache.plan(QUERIES + PASSAGES, 40):
            read([(QUERIES + PASSAGES)[row] for row in rows])
        expected = torch.rand(3)
    torch.manual_seed(5)
    gradcache.backward(read, [QUERIES, PASSAGES], LOSS, budget=40)
    assert torch.equal(torch.rand(3), expected)


def test_weights_get_their_gradients_under_autocast():
    read = reader()
    with torch.autocast("cpu", torch.bfloat16):
        gradcache.backward(read, [QUERIES, PASSAGES], LOSS, budget=40)
        ours = read.gradients()
        torch.clear_autocast_cache()
        _, expected = one_batch(read)
    assert distance(ours, expected) <= 0.05


def test_gradients_are_added_to_those_that_are_there():
    read = reader()
    gradcache.backward(read, [QUERIES, PASSAGES], LOSS, budget=40)
    once = {name: 2 * slope for name, slope in read.gradients().items()}
    for _ in range(2):
        gradcache.backward(read, [QUERIES, PASSAGES], LOSS, budget=40)
    assert distance(read.gradients(), once) <= BOUND


def test_the_graph_never_holds_more_than_one_mini_batch():
    read = reader()
    seen = []

    def watched(batch):
        sizes = [len(prompt.ids) for prompt in batch]
        seen.append((sum(sizes), len(sizes) * max(sizes), torch.is_grad_enabled()))
        return read(batch)

    gradcache.backward(watched, [QUERIES, PASSAGES], LOSS, budget=40)
    first = [(size, padded) for size, padded, graph in seen if not graph]
    second = [(size, padded) for size, padded, graph in seen if graph]
    assert first == second
    assert max(padded for _, padded in first) <= 40 < TOKENS == sum(size for size, _ in first)


def test_all_texts_that_fit_into_the_budget_are_read_once():
    read, calls = reader(), []
    gradcache.backward(
        lambda batch: calls.append(len(batch)) or read(batch),
        [QUERIES, PASSAGES],
        LOSS,
        budget=12 * max(len(prompt.ids) for prompt in QUERIES + PASSAGES),
    )
    assert calls == [12]


@pytest.mark.parametrize("count", [6, 12, 15])
def test_more_rounds_than_needed_change_nothing(count):
    read = reader()
    _, expected = one_batch(read)
    calls = []
    ranks = gradcache.Ranks(most=lambda own: max(own, count))
    gradcache.backward(
        lambda batch: calls.append(len(batch)) or read(batch),
        [QUERIES, PASSAGES],
        LOSS,
        budget=90,
        ranks=ranks,
    )
    assert len(calls) == 2 * count
    assert distance(read.gradients(), expected) <= BOUND


def test_a_matryoshka_loss_goes_through_gradcache():
    read, loss = reader(), losses.matryoshka(LOSS, [48, 12])
    loss(read(QUERIES), read(PASSAGES)).backward()
    expected = read.gradients()
    gradcache.backward(read, [QUERIES, PASSAGES], loss, budget=40)
    assert distance(read.gradients(), expected) <= BOUND


def test_a_step_without_texts_is_refused():
    with pytest.raises(InputError, match="no texts to embed"):
        gradcache.backward(reader(), [[], []], LOSS, budget=40)


@pytest.mark.gpu
def test_dropout_is_the_same_in_both_passes_on_a_gpu():
    layer = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5)).cuda()
    seen = []

    def embed(batch):
        ids = torch.tensor([prompt.ids[:4] for prompt in batch], device="cuda")
        vectors = layer(torch.nn.functional.pad(ids / 300, (0, 4)))
        seen.append(vectors.detach())
        return vectors

    gradcache.backward(embed, [QUERIES, PASSAGES], LOSS, budget=40)
    half = len(seen) // 2
    assert half > 1
    assert all(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))
