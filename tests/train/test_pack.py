"""Packed rows against rows of one sample each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gritlm.errors import InputError
from gritlm.lm.tokens import Prompt, SegmentTokenizer
from gritlm.prompts import for_chat
from gritlm.train.data import packing
from gritlm.train.objectives import losses
from tests import tiny
from tests.train.reading import distance, prompts

BOUND = 1e-5


def samples() -> list[Prompt]:
    """Texts of 5 to 30 tokens; two spans of each are trained."""
    return [
        Prompt(prompt.ids, trained=((0, 2), (len(prompt.ids) // 2, len(prompt.ids))))
        for prompt in prompts(7, seed=3, longest=30)
    ]


def logits(model: torch.nn.Module, rows: packing.PackedBatch) -> Tensor:
    return model(rows.ids_BL, position_ids=rows.position_BL, use_cache=False).logits


def of_sample(values: Tensor, rows: packing.PackedBatch, index: int, size: int) -> Tensor:
    return values[rows.sample_BL == index][:size]


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize(
    ("lengths", "plan"),
    [
        ([7, 5, 4, 3, 1], [[0, 4], [1, 3], [2]]),
        ([1, 3, 4, 5, 7], [[4, 0], [3, 1], [2]]),
        ([8, 8], [[0], [1]]),
        ([5, 4, 3, 4], [[0, 2], [1, 3]]),
        ([], []),
    ],
)
def test_a_sample_goes_where_least_room_stays_free(lengths, plan):
    assert packing.best_fit(lengths, 8) == plan


def test_many_samples_fill_the_rows():
    lengths = torch.randint(1, 100, (500,), generator=torch.Generator().manual_seed(0)).tolist()
    plan = packing.best_fit(lengths, 256)
    assert sorted(index for row in plan for index in row) == list(range(500))
    assert max(sum(lengths[index] for index in row) for row in plan) <= 256
    assert sum(lengths) / (256 * len(plan)) > 0.98


def test_a_sample_longer_than_a_row_is_refused():
    with pytest.raises(InputError, match="sample 1 has 9 tokens, a row takes 8"):
        packing.best_fit([3, 9], 8)


def test_labels_are_the_trained_spans_without_the_first_token_of_a_sample():
    rows = packing.packed(
        [Prompt([5, 6, 7], trained=((0, 3),)), Prompt([8, 9], trained=((1, 2),))],
        capacity=6,
        pad=4,
    )
    assert rows.ids_BL.tolist() == [[5, 6, 7, 8, 9]]
    assert rows.labels_BL.tolist() == [[-100, 6, 7, -100, 9]]
    assert rows.position_BL.tolist() == [[0, 1, 2, 0, 1]]
    assert rows.sample_BL.tolist() == [[0, 0, 0, 1, 1]]


def test_of_several_turns_exactly_the_answers_and_their_ends_are_trained():
    tokenizer = tiny.tokenizer()
    turns = [("Who reads?", "A model."), ("Who writes?", "One set of weights."), ("And?", "Cats.")]
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    prompt = SegmentTokenizer(tokenizer).for_chat(for_chat(messages, answer=False))
    labels = packing.padded([prompt]).labels_BL[0]
    trained = tokenizer.decode(labels[labels != losses.IGNORE])
    assert trained == "A model.</s>One set of weights.</s>Cats.</s>"


def test_padding_is_never_trained_even_where_it_is_the_end_token():
    rows = packing.padded([Prompt([5, 2], trained=((1, 2),)), Prompt([5, 6, 7, 2])], pad=2)
    assert rows.labels_BL.tolist() == [[-100, 2, -100, -100], [-100] * 4]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_packed_samples_get_the_logits_they_get_alone(family):
    model, texts = tiny.model(family), samples()
    together, alone = packing.packed(texts, capacity=50), packing.padded(texts)
    assert len(together.ids_BL) < len(alone.ids_BL)
    with torch.no_grad():
        packed, padded = logits(model, together), logits(model, alone)
    for index, text in enumerate(texts):
        ours = of_sample(packed, together, index, len(text.ids))
        other = of_sample(padded, alone, index, len(text.ids))
        assert (ours - other).abs().max() <= BOUND * other.abs().max()


@pytest.mark.parametrize("family", ["llama", "mistral", "mixtral"])
@pytest.mark.parametrize("kind", losses.KINDS)
def test_packed_equals_unpacked_in_loss_and_gradient(family, kind):
    model, texts = tiny.model(family), samples()
    found = []
    for rows in (packing.packed(texts, capacity=50), packing.padded(texts)):
        weight = losses.token_weights(rows.labels_BL, kind=kind, sample_BL=rows.sample_BL)
        loss = losses.next_token(logits(model, rows), rows.labels_BL, weight_N=weight)
        loss.backward()
        found.append((loss.item(), gradients(model)))
    assert found[0][0] == pytest.approx(found[1][0], rel=BOUND)
    assert distance(found[0][1], found[1][1]) <= BOUND


@pytest.mark.parametrize("kind", losses.KINDS)
def test_four_micro_batches_equal_one_batch(kind):
    model, texts = tiny.model(), samples()
    whole = packing.padded(texts)
    loss = losses.next_token(logits(model, whole), whole.labels_BL, kind=kind, factor=0.3)
    loss.backward()
    expected = gradients(model)
    parts = [packing.packed(texts[start : start + 2], capacity=60) for start in range(0, 7, 2)]
    divisor = sum(
        losses.divisor_of(part.labels_BL, kind=kind, sample_BL=part.sample_BL) for part in parts
    )
    found = 0.0
    for part in parts:
        weight = losses.token_weights(
            part.labels_BL, kind=kind, factor=0.3, sample_BL=part.sample_BL, divisor=divisor
        )
        value = losses.next_token(logits(model, part), part.labels_BL, weight_N=weight)
        value.backward()
        found += value.item()
    assert found == pytest.approx(loss.item(), rel=BOUND)
    assert distance(gradients(model), expected) <= BOUND
