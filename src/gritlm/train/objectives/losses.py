"""Losses: pure functions that return a float32 scalar, also under autocast.

Shapes: Q queries, P passages, D dimensions; B rows, L positions, V vocabulary, N supervised
tokens, or N scored pairs with K ordered combinations. ``labels_BL`` has the token at each position
in the loss, and ``IGNORE`` elsewhere. The functions shift it: the state at position t predicts the
label at t + 1.

Sources: GritLM (arXiv 2402.09906) equations 1 to 3, Matryoshka representations (arXiv 2205.13147),
CoSENT (doi 10.1109/TASLP.2024.3402087).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gritlm.errors import InputError, choice
from gritlm.lm.vectors import normalise
from gritlm.train.objectives import chunked_loss
from gritlm.train.objectives.chunked_loss import Head

IGNORE = -100
KINDS = ("mixed", "token", "sample")

PairLoss = Callable[[Tensor, Tensor], Tensor]


def contrastive(
    query_QD: Tensor,
    passage_PD: Tensor,
    *,
    temperature: float,
    positives: Tensor | None = None,
    mask_QP: Tensor | None = None,
    symmetric: bool = False,
) -> Tensor:
    """Return the mean cross-entropy of each query's positive among all passages (InfoNCE, eq. 1).

    Args:
        query_QD: vectors of the queries, compared by inner product, usually of length 1.
        passage_PD: vectors of the passages.
        temperature: divisor of the similarities.
        positives: index (Q,) of each query's positive; by default the passages form Q groups of
            equal size, and the first of each group is the positive.
        mask_QP: true for false negatives, which are left out. A query's positive is always used.
        symmetric: average with the same loss of each positive among all queries.

    Raises:
        InputError: the passages do not form equal groups, or the temperature is <= 0.
    """
    _require_positive(temperature, "temperature")
    positive_Q = _positives(query_QD, passage_PD) if positives is None else positives
    score_QP = similarity(query_QD, passage_PD) / temperature
    if mask_QP is not None:
        false_QP = mask_QP.bool() & ~F.one_hot(positive_Q, len(passage_PD)).bool()
        score_QP = score_QP.masked_fill(false_QP, float("-inf"))
    forth = F.cross_entropy(score_QP, positive_Q)
    if not symmetric:
        return forth
    own_Q = torch.arange(len(positive_Q), device=positive_Q.device)
    return (forth + F.cross_entropy(score_QP[:, positive_Q].T, own_Q)) / 2


def cosent(first_ND: Tensor, second_ND: Tensor, score_N: Tensor, *, temperature: float) -> Tensor:
    """Return the CoSENT loss: how far the order of the cosines is from that of the scores.

    ``log(1 + sum(exp((cos_j - cos_i) / temperature)))`` over all i and j with score_i > score_j;
    0 if all scores are equal.

    Args:
        first_ND: vectors of the first texts, of any length.
        second_ND: vectors of the second texts, of any length.
        score_N: scores of the pairs, on any scale: only their order matters.
        temperature: divisor of the cosines.

    Raises:
        InputError: the temperature is <= 0.
    """
    _require_positive(temperature, "temperature")
    cosine_N = cosines(first_ND, second_ND) / temperature
    above_NN = (score_N[:, None] > score_N).to(cosine_N.device)
    gap_K = (cosine_N - cosine_N[:, None])[above_NN]
    return torch.cat([gap_K.new_zeros(1), gap_K]).logsumexp(dim=0)


def cosines(first_ND: Tensor, second_ND: Tensor) -> Tensor:
    """Return the cosine of each pair of vectors (N,), in float32."""
    return (normalise(first_ND) * normalise(second_ND)).sum(dim=-1)


def similarity(query_QD: Tensor, passage_PD: Tensor) -> Tensor:
    """Return the inner products (Q, P), always in float32."""
    with torch.autocast(query_QD.device.type, enabled=False):
        return query_QD.float() @ passage_PD.float().T


def matryoshka(
    loss: PairLoss, dims: Sequence[int], weights: Sequence[float] | None = None
) -> PairLoss:
    """Return a loss: the weighted sum of ``loss`` on the first d dimensions, for d in ``dims``.

    Truncated vectors are normalized again.

    Args:
        loss: loss of queries and passages.
        dims: numbers of dimensions.
        weights: weight of each of ``dims``; None: 1.

    Raises:
        InputError: numbers of weights and dimensions differ, or a dimension is out of range.
    """
    scales = [1.0] * len(dims) if weights is None else list(weights)
    if not dims or len(scales) != len(dims):
        raise InputError(f"{len(scales)} weights for {len(dims)} dimensions; expected one for each")

    def summed(query_QD: Tensor, passage_PD: Tensor) -> Tensor:
        size = query_QD.shape[1]
        if wrong := [dim for dim in dims if not 1 <= dim <= size]:
            raise InputError(f"matryoshka dimension {wrong[0]} of vectors with {size}")
        parts = [
            scale * loss(normalise(query_QD[:, :dim]), normalise(passage_PD[:, :dim]))
            for dim, scale in zip(dims, scales, strict=True)
        ]
        return torch.stack(parts).sum()

    return summed


def distil(
    query_QD: Tensor,
    passage_PD: Tensor,
    teacher_QP: Tensor,
    *,
    temperature: float,
    teacher_temperature: float | None = None,
) -> Tensor:
    """Return the mean KL(teacher || student) of each query's distribution over the passages.

    Args:
        query_QD: vectors of the queries.
        passage_PD: vectors of the passages.
        teacher_QP: similarities of the teacher; -inf leaves a passage out.
        temperature: divisor of the student's similarities.
        teacher_temperature: divisor of the teacher's similarities; None: ``temperature``.
    """
    _require_positive(temperature, "temperature")
    if teacher_temperature is not None:
        _require_positive(teacher_temperature, "teacher_temperature")
    score_QP = similarity(query_QD, passage_PD) / temperature
    goal_QP = teacher_QP.float() / (teacher_temperature or temperature)
    score_QP = score_QP.masked_fill(goal_QP == float("-inf"), float("-inf"))
    return _kl(score_QP, goal_QP).mean()


def next_token(
    logits_BLV: Tensor,
    labels_BL: Tensor,
    *,
    kind: str = "mixed",
    factor: float = 1.0,
    weight_N: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy of the supervised tokens (eq. 2); exactly 0 without any.

    Args:
        logits_BLV: logits of all positions.
        labels_BL: tokens in the loss, ``IGNORE`` elsewhere.
        kind: weighting of tokens, see :func:`token_weights`.
        factor: factor of the loss, for every kind.
        weight_N: weights from :func:`token_weights`, instead of ``kind`` and ``factor``.
    """
    if weight_N is None:
        weight_N = token_weights(labels_BL, kind=kind, factor=factor)
    keep_BL, target_N = _supervised(labels_BL)
    loss_N = F.cross_entropy(logits_BLV[:, :-1][keep_BL].float(), target_N, reduction="none")
    return (loss_N * weight_N).sum()


def chunked_next_token(
    hidden_BLD: Tensor,
    head: Head,
    labels_BL: Tensor,
    *,
    kind: str = "mixed",
    factor: float = 1.0,
    weight_N: Tensor | None = None,
    chunk: int = 256,
) -> Tensor:
    """Return :func:`next_token` of a head's logits, ``chunk`` tokens at a time.

    Logits are computed for supervised positions only.

    Args:
        hidden_BLD: states after the final norm.
        head: a weight (V, D) for logits ``hidden @ weight.T``, or a function of states (N, D) that
            returns logits (N, V), such as a module with an adapter, a bias or a soft cap.
        labels_BL: tokens in the loss, ``IGNORE`` elsewhere.
        kind: weighting of tokens, see :func:`token_weights`.
        factor: factor of the loss, for every kind.
        weight_N: weights from :func:`token_weights`, instead of ``kind`` and ``factor``.
        chunk: number of tokens whose logits are in memory.
    """
    _require_positive(chunk, "chunk")
    if weight_N is None:
        weight_N = token_weights(labels_BL, kind=kind, factor=factor)
    state_ND = supervised_states(hidden_BLD, labels_BL)
    target_N = targets(labels_BL)
    return chunked_loss.cross_entropy(state_ND, head, target_N, weight_N, chunk=chunk)


def chunked_with_kl(
    hidden_BLD: Tensor,
    head: Head,
    labels_BL: Tensor,
    *,
    reference: tuple[Tensor, Head],
    kl_weight: float,
    weight_N: Tensor | None = None,
    chunk: int = 256,
) -> tuple[Tensor, Tensor]:
    """Return :func:`chunked_next_token` plus ``kl_weight`` times the divergence from a reference.

    Divergence and cross-entropy of a token have the same weight, so the parts of a split step add
    up. With the default weights the divergence is :func:`kl_to`.

    Args:
        hidden_BLD: states after the final norm.
        head: weight or function, see :func:`chunked_next_token`.
        labels_BL: tokens in the loss, ``IGNORE`` elsewhere.
        reference: states (B, L, D), or (N, D) at the supervised positions only (see
            :func:`supervised_states`), and head of the reference. Neither gets a gradient.
        kl_weight: weight of the divergence.
        weight_N: weights from :func:`token_weights`; None: of kind ``mixed``.
        chunk: number of tokens whose logits are in memory.

    Returns:
        The total loss, and the divergence without gradient and before ``kl_weight``.

    Raises:
        InputError: the reference has other positions or another vocabulary.
    """
    _require_positive(chunk, "chunk")
    if weight_N is None:
        weight_N = token_weights(labels_BL, kind="mixed")
    state_ND, (theirs, their_head) = supervised_states(hidden_BLD, labels_BL), reference
    theirs_ND = theirs if theirs.ndim == 2 else supervised_states(theirs, labels_BL)
    _require_same(len(theirs_ND), len(state_ND), "positions (the supervised ones)")
    if isinstance(head, Tensor) and isinstance(their_head, Tensor):
        _require_same(len(their_head), len(head), "words")
    return chunked_loss.cross_entropy_and_kl(
        state_ND,
        head,
        targets(labels_BL),
        weight_N,
        reference=chunked_loss.Reference(theirs_ND, their_head, kl_weight),
        chunk=chunk,
    )


def mean_log_likelihood(
    hidden_BLD: Tensor, head: Head, labels_BL: Tensor, *, chunk: int = 256
) -> Tensor:
    """Return the mean log-probability of each row's supervised tokens (B,), float32.

    Args:
        hidden_BLD: states of the model after its final norm.
        head: weight (V, D) or function of states.
        labels_BL: tokens in the loss, at least one in each row; ``IGNORE`` elsewhere.
        chunk: number of tokens whose logits are in memory.
    """
    _require_positive(chunk, "chunk")
    keep_BL, target_N = _supervised(labels_BL)
    state_ND = hidden_BLD[:, :-1][keep_BL]
    logp_N = chunked_loss.log_likelihood(state_ND, head, target_N, chunk=chunk)
    row_N = keep_BL.nonzero()[:, 0]
    sum_B = logp_N.new_zeros(len(labels_BL)).index_add(0, row_N, logp_N)
    return sum_B / keep_BL.sum(dim=1)


def targets(labels_BL: Tensor) -> Tensor:
    """Return the target tokens of the supervised positions (N,), in row-major order."""
    return _supervised(labels_BL)[1]


def supervised_states(hidden_BLD: Tensor, labels_BL: Tensor) -> Tensor:
    """Return the states that predict a label (N, D), in row-major order."""
    return hidden_BLD[:, :-1][_supervised(labels_BL)[0]]


def token_weights(
    labels_BL: Tensor,
    *,
    kind: str,
    factor: float = 1.0,
    sample_BL: Tensor | None = None,
    divisor: float | None = None,
) -> Tensor:
    """Return the weight of each supervised token (N,), in row-major order.

    Kinds: ``mixed`` is the mean over all supervised tokens; ``token`` the sum divided by the
    number of samples; ``sample`` the mean over samples of each sample's mean (samples without
    a supervised token are left out).

    Args:
        labels_BL: tokens in the loss, ``IGNORE`` elsewhere.
        kind: ``mixed``, ``token`` or ``sample``.
        factor: factor of all weights.
        sample_BL: index of the sample at each position; None: each row is a sample.
        divisor: divisor of the larger batch that these rows belong to, see :func:`divisor_of`;
            None: that of these rows.

    Raises:
        InputError: the kind is unknown.
    """
    choice(kind, KINDS, name="kind")
    keep_BL, target_N = _supervised(labels_BL)
    weight_N = torch.full_like(target_N, factor, dtype=torch.float32)
    if kind == "sample":
        sample_N = _samples(labels_BL, sample_BL)[:, 1:][keep_BL]
        weight_N = weight_N / torch.bincount(sample_N)[sample_N]
    if divisor is None:
        divisor = divisor_of(labels_BL, kind=kind, sample_BL=sample_BL)
    return weight_N / (divisor or 1)


def divisor_of(labels_BL: Tensor, *, kind: str, sample_BL: Tensor | None = None) -> int:
    """Return the number of tokens or samples that divides the loss of these rows.

    A step that is split over micro-batches and processes has the gradient of one batch if each
    part is divided by the sum of all divisors (over the number of processes, whose gradients are
    averaged).

    Args:
        labels_BL: tokens in the loss, ``IGNORE`` elsewhere.
        kind: ``mixed``, ``token`` or ``sample``, see :func:`token_weights`.
        sample_BL: index of the sample at each position; None: each row is a sample.
    """
    keep_BL, _ = _supervised(labels_BL)
    if kind == "mixed":
        return int(keep_BL.sum())
    sample_BL = _samples(labels_BL, sample_BL)
    seen = sample_BL if kind == "token" else sample_BL[:, 1:][keep_BL]
    return len(seen.unique())


def _samples(labels_BL: Tensor, sample_BL: Tensor | None) -> Tensor:
    if sample_BL is not None:
        return sample_BL
    row_B = torch.arange(len(labels_BL), device=labels_BL.device)
    return row_B[:, None].expand_as(labels_BL)


def kl_to(logits_BLV: Tensor, reference_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """Return the mean KL(reference || model) of next-token distributions at supervised positions.

    The reference gets no gradient. The result is exactly 0 without supervised tokens.

    Args:
        logits_BLV: logits of the model.
        reference_BLV: logits of the reference.
        labels_BL: tokens in the loss, ``IGNORE`` elsewhere.
    """
    keep_BL, target_N = _supervised(labels_BL)
    ours_NV = logits_BLV[:, :-1][keep_BL].float()
    theirs_NV = reference_BLV.detach()[:, :-1][keep_BL].float()
    return _kl(ours_NV, theirs_NV).sum() / max(1, len(target_N))


def _supervised(labels_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mask (B, L - 1) of positions that predict a label, and the labels (N,)."""
    target_BL = labels_BL[:, 1:]
    keep_BL = target_BL != IGNORE
    return keep_BL, target_BL[keep_BL]


def _kl(score_NV: Tensor, goal_NV: Tensor) -> Tensor:
    """Return KL(softmax(goal) || softmax(score)) of each row (N,); goals of -inf add 0."""
    goal = goal_NV.log_softmax(dim=-1)
    gap = goal - score_NV.log_softmax(dim=-1)
    return (goal.exp() * gap.masked_fill(goal == float("-inf"), 0)).sum(dim=-1)


def _positives(query_QD: Tensor, passage_PD: Tensor) -> Tensor:
    group, rest = divmod(len(passage_PD), max(1, len(query_QD)))
    if rest or not group:
        raise InputError(
            f"{len(passage_PD)} passages for {len(query_QD)} queries; expected the same number for "
            "each, or positives= with the index of each query's passage"
        )
    return torch.arange(0, len(passage_PD), group, device=query_QD.device)


def _require_same(theirs: int, ours: int, what: str) -> None:
    if theirs != ours:
        raise InputError(f"the reference has {theirs} {what}; expected {ours}")


def _require_positive(value: float, name: str) -> None:
    if not value > 0:
        raise InputError(f"{name}={value}; expected a number above 0")
