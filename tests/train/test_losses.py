"""Losses against the reference, against each other, and at their edges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gritlm.errors import InputError
from gritlm.lm.vectors import normalise
from gritlm.train.objectives import losses

BOUND = 1e-5


def distance(ours: Tensor, other: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((ours - other).abs().max() / other.abs().max())


def vectors(rows: int, seed: int = 0, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalise(torch.randn(rows, size, generator=generator))


def labels(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


@pytest.fixture
def generative() -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (3, 9, 8), weights of a head (23, 8), and labels; the last row has none."""
    torch.manual_seed(0)
    hidden = torch.randn(3, 9, 8, requires_grad=True)
    weight = torch.randn(23, 8, requires_grad=True)
    wanted = torch.randint(0, 23, (3, 9))
    wanted[0, :4] = wanted[1, 2:8] = wanted[2] = losses.IGNORE
    return hidden, weight, wanted


def test_the_contrastive_loss_and_its_gradients_equal_the_reference(golden):
    query, passage = golden.vectors("query"), golden.vectors("passage")
    loss = losses.contrastive(query, passage, temperature=0.02)
    loss.backward()
    assert loss.item() == pytest.approx(golden.losses["contrastive.temperature_0.02"], rel=BOUND)
    for name in ("embed_tokens", "q_proj0"):
        reference = golden.tensors[f"grad.contrastive.{name}"]
        assert distance(golden.gradient(name), reference) <= BOUND


@pytest.mark.parametrize("golden", ["mistral-11"], indirect=True)
@pytest.mark.parametrize("kind", ["mixed", "token"])
@pytest.mark.parametrize("factor", [1.0, 0.003])
def test_the_generative_loss_equals_the_reference(golden, kind, factor):
    loss = losses.next_token(
        golden.logits(), golden.tensors["generative.labels"], kind=kind, factor=factor
    )
    reference = golden.losses[f"generative.{kind}.factor_{factor}"]
    assert loss.item() == pytest.approx(reference, rel=BOUND)


@pytest.mark.parametrize("golden", ["mistral-11"], indirect=True)
@pytest.mark.parametrize("chunked", [False, True])
def test_the_gradient_of_the_generative_loss_equals_the_reference(golden, chunked):
    wanted = golden.tensors["generative.labels"]
    if chunked:
        ids, mask = golden.tensors["passage.input_ids"], golden.tensors["passage.attention_mask"]
        hidden = golden.lm.hidden(ids, mask, causal=True)
        head = golden.lm.causal.get_output_embeddings().weight
        loss = losses.chunked_next_token(hidden, head, wanted, chunk=7)
    else:
        loss = losses.next_token(golden.logits(), wanted)
    loss.backward()
    reference = golden.tensors["grad.generative_mixed.q_proj0"]
    assert distance(golden.gradient("q_proj0"), reference) <= BOUND


def test_the_similarity_is_float32_under_autocast():
    query, passage = vectors(4), vectors(8, seed=1)
    plain = losses.contrastive(query, passage, temperature=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        cast = losses.contrastive(query, passage, temperature=0.02)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)


def test_positives_can_stand_anywhere():
    query, passage = vectors(3), vectors(6, seed=1)
    by_groups = losses.contrastive(query, passage, temperature=0.1)
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    places = torch.tensor([int((order == i).nonzero()) for i in (0, 2, 4)])
    moved = losses.contrastive(query, passage[order], temperature=0.1, positives=places)
    assert torch.allclose(moved, by_groups)


def test_a_false_negative_does_not_count():
    query, passage = vectors(2), vectors(4, seed=1)
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[0, 2] = mask[1, 0] = True
    ours = losses.contrastive(query, passage, temperature=0.1, mask_QP=mask)
    score = query @ passage.T / 0.1
    first = F.cross_entropy(score[0, [0, 1, 3]], torch.tensor(0))
    second = F.cross_entropy(score[1, [2, 1, 3]], torch.tensor(0))
    assert torch.allclose(ours, (first + second) / 2)


def test_a_query_keeps_its_own_positive_whatever_the_mask_says():
    query, passage = vectors(2), vectors(4, seed=1)
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[0, 0] = mask[1, 2] = True
    masked = losses.contrastive(query, passage, temperature=0.1, mask_QP=mask)
    assert torch.equal(masked, losses.contrastive(query, passage, temperature=0.1))


def test_the_symmetric_loss_of_pairs_is_the_same_from_both_sides():
    left, right = vectors(5), vectors(5, seed=1)
    ours = losses.contrastive(left, right, temperature=0.1, symmetric=True)
    assert torch.allclose(ours, losses.contrastive(right, left, temperature=0.1, symmetric=True))
    assert not torch.allclose(ours, losses.contrastive(left, right, temperature=0.1))


def test_passages_that_come_in_no_equal_groups_are_refused():
    with pytest.raises(InputError, match="5 passages for 2 queries"):
        losses.contrastive(vectors(2), vectors(5), temperature=0.1)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(InputError, match=r"temperature=0\.0; expected a number above 0"):
        losses.contrastive(vectors(2), vectors(2), temperature=0.0)


def test_an_unknown_kind_is_refused(generative):
    hidden, weight, wanted = generative
    with pytest.raises(InputError, match="expected one of mixed, token, sample"):
        losses.next_token(hidden @ weight.T, wanted, kind="tokens")


def test_every_sample_counts_the_same_in_the_loss_by_sample(generative):
    hidden, weight, wanted = generative
    logits = hidden @ weight.T
    rows = [losses.next_token(logits[i : i + 1], wanted[i : i + 1]) for i in (0, 1)]
    ours = losses.next_token(logits, wanted, kind="sample")
    assert torch.allclose(ours, torch.stack(rows).mean())
    assert not torch.allclose(ours, losses.next_token(logits, wanted))


@pytest.mark.parametrize("kind", losses.KINDS)
def test_samples_that_share_a_row_weigh_as_in_rows_of_their_own(kind):
    apart = labels([-100, 4, 5, 6], [-100, 7, -100, -100])
    together = labels([-100, 4, 5, 6, -100, 7, -100, -100])
    sample = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    ours = losses.token_weights(together, kind=kind, sample_BL=sample)
    assert torch.equal(ours, losses.token_weights(apart, kind=kind))


@pytest.mark.parametrize("kind", losses.KINDS)
@pytest.mark.parametrize("loss", [losses.next_token, losses.chunked_next_token])
def test_a_batch_without_any_label_gives_zero_with_a_gradient(generative, loss, kind):
    hidden, weight, wanted = generative
    nothing = torch.full_like(wanted, losses.IGNORE)
    nothing[:, 0] = 3  # nothing stands before the first token, so nothing predicts it
    states = (hidden @ weight.T,) if loss is losses.next_token else (hidden, weight)
    value = loss(*states, nothing, kind=kind)
    value.backward()
    assert value.item() == 0
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))


@pytest.mark.parametrize("kind", losses.KINDS)
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_the_chunked_loss_equals_the_plain_one_in_value_and_gradient(generative, kind, chunk):
    hidden, weight, wanted = generative
    plain = losses.next_token(hidden @ weight.T, wanted, kind=kind, factor=0.3)
    expected = torch.autograd.grad(2 * plain, (hidden, weight))
    ours = losses.chunked_next_token(hidden, weight, wanted, kind=kind, factor=0.3, chunk=chunk)
    got = torch.autograd.grad(2 * ours, (hidden, weight))
    assert torch.allclose(ours, plain, rtol=BOUND)
    assert all(distance(a, b) <= BOUND for a, b in zip(got, expected, strict=True))


def test_the_chunked_loss_equals_the_plain_one_under_autocast(generative):
    hidden, weight, wanted = generative
    with torch.autocast("cpu", torch.bfloat16):
        plain = losses.next_token(F.linear(hidden, weight), wanted)
        ours = losses.chunked_next_token(hidden, weight, wanted, chunk=100)
    expected = torch.autograd.grad(plain, (hidden, weight))
    got = torch.autograd.grad(ours, (hidden, weight))
    assert ours.dtype == got[1].dtype == torch.float32
    assert torch.allclose(ours, plain, rtol=BOUND)
    assert all(distance(a, b) <= 0.01 for a, b in zip(got, expected, strict=True))


def test_a_frozen_head_gets_no_gradient_from_the_chunked_loss(generative):
    hidden, weight, wanted = generative
    losses.chunked_next_token(hidden, weight.detach(), wanted, chunk=4).backward()
    assert hidden.grad.abs().sum() > 0
    assert weight.grad is None


def test_the_chunked_loss_holds_the_logits_of_one_chunk_only():
    shapes = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            shapes.append(tuple(made.shape) if isinstance(made, Tensor) else ())
            return made

    hidden, weight = torch.randn(2, 65, 8, requires_grad=True), torch.randn(50, 8)
    with Watch():
        losses.chunked_next_token(
            hidden, weight, torch.ones(2, 65, dtype=torch.long), chunk=16
        ).backward()
    assert max(shape[0] for shape in shapes if shape[-1:] == (50,)) == 16


def test_matryoshka_sums_the_loss_of_each_cut():
    def loss(query, passage):
        return losses.contrastive(query, passage, temperature=0.1)

    query, passage = vectors(3), vectors(3, seed=1)
    ours = losses.matryoshka(loss, [8, 4], weights=[1.0, 0.5])(query, passage)
    short = loss(normalise(query[:, :4]), normalise(passage[:, :4]))
    assert torch.allclose(ours, loss(query, passage) + 0.5 * short)


@pytest.mark.parametrize(("dims", "weights"), [([9], None), ([4], [1.0, 2.0]), ([], None)])
def test_matryoshka_dimensions_that_cannot_be_are_refused(dims, weights):
    with pytest.raises(InputError):
        losses.matryoshka(lambda q, p: (q @ p.T).sum(), dims, weights)(vectors(2), vectors(2))


def test_distillation_is_zero_with_zero_gradient_at_the_teacher_itself():
    query, passage = vectors(3).requires_grad_(), vectors(6, seed=1)
    loss = losses.distil(query, passage, (query @ passage.T).detach(), temperature=0.05)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert query.grad.abs().max() < BOUND


def test_distillation_equals_the_divergence_of_torch():
    query, passage = vectors(3), vectors(6, seed=1)
    teacher = vectors(3, seed=2) @ vectors(6, seed=3).T
    ours = losses.distil(query, passage, teacher, temperature=0.1, teacher_temperature=0.5)
    expected = F.kl_div(
        (query @ passage.T / 0.1).log_softmax(1), (teacher / 0.5).softmax(1), reduction="batchmean"
    )
    assert torch.allclose(ours, expected)


def test_passages_the_teacher_leaves_out_do_not_count():
    query, passage = vectors(2).requires_grad_(), vectors(4, seed=1)
    teacher = vectors(2, seed=2) @ vectors(4, seed=3).T
    teacher[:, 3] = float("-inf")
    ours = losses.distil(query, passage, teacher, temperature=0.1)
    without = losses.distil(query, passage[:3], teacher[:, :3], temperature=0.1)
    ours.backward()
    assert torch.allclose(ours, without)
    assert torch.isfinite(query.grad).all()


def test_the_divergence_from_a_reference_is_taken_where_tokens_are_supervised(generative):
    hidden, weight, wanted = generative
    logits = (hidden @ weight.T).detach().requires_grad_()
    reference = logits.detach() + torch.linspace(0, 1, 23)
    losses.kl_to(logits, reference, wanted).backward()
    supervised = wanted[:, 1:] != losses.IGNORE
    assert torch.equal(logits.grad.abs().sum(-1)[:, :-1] > 0, supervised)
    expected = F.kl_div(
        logits[:, :-1][supervised].log_softmax(-1),
        reference[:, :-1][supervised].softmax(-1),
        reduction="batchmean",
    )
    assert torch.allclose(losses.kl_to(logits, reference, wanted), expected)


def test_the_divergence_from_a_reference_is_zero_without_labels(generative):
    hidden, weight, wanted = generative
    logits = hidden @ weight.T
    nothing = torch.full_like(wanted, losses.IGNORE)
    assert losses.kl_to(logits, logits + 1, nothing).item() == 0


@pytest.fixture
def reference() -> tuple[Tensor, Tensor]:
    """States (3, 9, 6) and head (23, 6) of another, narrower model."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 9, 6, generator=generator), torch.randn(23, 6, generator=generator)


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("kl_weight", [0.0, 0.7])
def test_the_chunked_divergence_equals_the_plain_one(generative, reference, chunk, kl_weight):
    hidden, weight, wanted = generative
    states, head = reference
    kl = losses.kl_to(hidden @ weight.T, states @ head.T, wanted)
    plain = losses.next_token(hidden @ weight.T, wanted) + kl_weight * kl
    expected = torch.autograd.grad(2 * plain, (hidden, weight))
    total, ours = losses.chunked_with_kl(
        hidden, weight, wanted, reference=reference, kl_weight=kl_weight, chunk=chunk
    )
    got = torch.autograd.grad(2 * total, (hidden, weight))
    assert torch.allclose(total, plain, rtol=BOUND)
    assert torch.allclose(ours, kl, rtol=BOUND)
    assert not ours.requires_grad
    assert all(distance(a, b) <= BOUND for a, b in zip(got, expected, strict=True))


def test_reference_states_may_come_for_the_supervised_positions_only(generative, reference):
    hidden, weight, wanted = generative
    states, head = reference
    few = losses.supervised_states(states, wanted)
    assert len(few) == (wanted[:, 1:] != losses.IGNORE).sum()
    one, other = (
        losses.chunked_with_kl(hidden, weight, wanted, reference=(each, head), kl_weight=1.0)
        for each in (states, few)
    )
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def test_a_tokens_divergence_counts_what_its_cross_entropy_counts(generative, reference):
    hidden, weight, wanted = generative
    token_N = losses.token_weights(wanted, kind="sample", factor=0.3)
    parts = [
        losses.chunked_with_kl(
            hidden[i : i + 1],
            weight,
            wanted[i : i + 1],
            kl_weight=0.7,
            weight_N=each,
            reference=(reference[0][i : i + 1], reference[1]),
        )
        for i, each in enumerate(token_N.split((wanted[:, 1:] != losses.IGNORE).sum(1).tolist()))
    ]
    whole = losses.chunked_with_kl(
        hidden, weight, wanted, reference=reference, kl_weight=0.7, weight_N=token_N
    )
    for ours, summed in zip(whole, map(torch.stack, zip(*parts, strict=True)), strict=True):
        assert torch.allclose(ours, summed.sum(), rtol=BOUND)
    plain = losses.next_token(hidden @ weight.T, wanted, weight_N=token_N)
    assert torch.allclose(whole[0] - 0.7 * whole[1], plain, rtol=BOUND)


def test_a_model_is_at_no_distance_from_itself(generative):
    hidden, weight, wanted = generative
    total, kl = losses.chunked_with_kl(
        hidden, weight, wanted, reference=(hidden, weight), kl_weight=5.0
    )
    assert kl.item() == pytest.approx(0, abs=1e-6)
    expected = torch.autograd.grad(losses.next_token(hidden @ weight.T, wanted), hidden)[0]
    assert distance(torch.autograd.grad(total, hidden)[0], expected) <= BOUND


def test_the_reference_and_a_frozen_head_get_no_gradient(generative, reference):
    hidden, weight, wanted = generative
    reference = tuple(each.requires_grad_() for each in reference)
    total, _ = losses.chunked_with_kl(
        hidden, weight.detach(), wanted, reference=reference, kl_weight=1.0
    )
    total.backward()
    assert hidden.grad.abs().sum() > 0
    assert weight.grad is None
    assert all(each.grad is None for each in reference)


def test_the_chunked_divergence_is_the_same_without_a_graph(generative, reference):
    hidden, weight, wanted = generative
    options = {"reference": reference, "kl_weight": 0.7}
    with torch.no_grad():
        total, kl = losses.chunked_with_kl(hidden, weight, wanted, **options)
    assert not total.requires_grad
    expected = losses.chunked_with_kl(hidden, weight, wanted, **options)
    assert torch.equal(total, expected[0])
    assert torch.equal(kl, expected[1])


def test_the_chunked_divergence_is_zero_with_a_gradient_without_labels(generative, reference):
    hidden, weight, wanted = generative
    nothing = torch.full_like(wanted, losses.IGNORE)
    total, kl = losses.chunked_with_kl(hidden, weight, nothing, reference=reference, kl_weight=1.0)
    total.backward()
    assert total.item() == kl.item() == 0
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))


def test_the_chunked_divergence_is_float32_under_autocast(generative, reference):
    hidden, weight, wanted = generative
    with torch.autocast("cpu", torch.bfloat16):
        kl = losses.kl_to(F.linear(hidden, weight), F.linear(*reference), wanted)
        plain = losses.next_token(F.linear(hidden, weight), wanted) + 0.7 * kl
        total, ours = losses.chunked_with_kl(
            hidden, weight, wanted, reference=reference, kl_weight=0.7
        )
    assert total.dtype == ours.dtype == torch.float32
    assert torch.allclose(total, plain, rtol=BOUND)
    assert torch.allclose(ours, kl, rtol=BOUND)


def test_a_reference_of_other_positions_or_words_is_refused(generative, reference):
    hidden, weight, wanted = generative
    states, head = reference
    for wrong in ((states[0], head), (states, head[:-1])):
        with pytest.raises(InputError, match="the reference has"):
            losses.chunked_with_kl(hidden, weight, wanted, reference=wrong, kl_weight=1.0)
